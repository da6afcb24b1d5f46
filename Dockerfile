# A public lab in a container: docker build -t qmoe-lab . && docker run -p 127.0.0.1:8501:8501 qmoe-lab
#
# torch's usual build for Linux brings CUDA's libraries (about 6 GB). Where a build for the processor alone can
# be had, name it: --build-arg TORCH=<requirement, or address of a wheel>, or
# --build-arg PIP_EXTRA_INDEX_URL=<address of an index that has it>.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH=torch
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/qmoe
WORKDIR /source
COPY constraints.txt ./
RUN /opt/qmoe/bin/pip install --constraint constraints.txt "${TORCH}"
COPY . .
RUN /opt/qmoe/bin/pip install --constraint constraints.txt ".[lab]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/qmoe /opt/qmoe
# The program belongs to root and is only read; the user writes to its home, which has the store and the
# compiled kernels.
RUN useradd --system --create-home --home-dir /srv/qmoe --shell /usr/sbin/nologin qmoe
USER qmoe
WORKDIR /srv/qmoe
ENV PATH=/opt/qmoe/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    QMOE_STORE=/srv/qmoe/store \
    QMOE_CACHE=/srv/qmoe/kernels
# The sound that the health check asks about; a first verdict compiles the kernels.
RUN mkdir store kernels \
    && python -c "import soundfile; from qmoe_core.audio import decode, synth; soundfile.write('health.wav', synth.render('rain'), decode.SAMPLE_RATE)" \
    && qmoe classify health.wav
VOLUME /srv/qmoe/store
EXPOSE 8501
# The server answers, and a sound gets a verdict. The verdict is that of a second process, of about 200 MB.
HEALTHCHECK --interval=60s --timeout=45s --start-period=60s --retries=3 \
    CMD python -c "import urllib.request; urllib.request.urlopen('http://localhost:8501/_stcore/health', timeout=10).close()" \
        && qmoe classify health.wav --json > /dev/null || exit 1
# For visitors; with a proxy in front add --host lab.example.org (see SECURITY.md).
CMD ["qmoe", "app", "--public", "--no-browser", "--address", "0.0.0.0", "--port", "8501"]
