// What was heard in the last half minute, from left to now: spectrogram, level, the probability of each class, what
// each expert would say and who was routed to, and the doubt with the limit above which nothing is answered. One time axis.
//
// Drawn on canvases, because four times a second is too often for a chart library: a drawing takes a millisecond
// or two. `data` is what live_charts.picture makes; arrays of bytes come as base64.

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// 256 colours between those of a scale, as [r, g, b].
function ramp(scale) {
  const stops = scale.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return Array.from({length: 256}, (_, i) => {
    const at = (i / 255) * (stops.length - 1);
    const [low, high] = [stops[Math.floor(at)], stops[Math.ceil(at)]];
    return low.map((value, j) => Math.round(value + (high[j] - value) * (at % 1)));
  });
}

class Picture {
  constructor(root) {
    this.root = root;
    this.box = root.querySelector(".picture");
    this.colours = {};
    this.raster = document.createElement("canvas");
    new ResizeObserver(() => this.data && this.draw()).observe(this.box);
  }

  update(data) {
    this.data = data;
    this.draw();
  }

  draw() {
    const {data} = this;
    const key = JSON.stringify(data.theme);
    if (key !== this.key) {
      this.key = key;
      this.ramp = ramp(data.theme.scale);
      this.css = this.ramp.map(([r, g, b]) => `rgb(${r} ${g} ${b})`);
      this.box.style.setProperty("--muted", data.theme.muted);
    }
    this.box.setAttribute("aria-label", data.alt);
    for (const title of this.root.querySelectorAll(".title")) title.textContent = data.titles[title.dataset.of];
    this.names(".hz", data.hz.map(([share, text]) => [text, 1 - share]));
    this.names(".level", [-60, -30].map((db) => [`−${-db} dB`, -db / 80]));
    this.list(".classes", data.classes, data.windows.at(-1)?.best, data.colours);
    this.list(".experts", data.experts);
    this.root.querySelector(".time").replaceChildren(
      ...["−30 s", "−20 s", "−10 s", "now"].map((text) => Object.assign(document.createElement("span"), {textContent: text})),
    );
    this.spectrogram();
    this.level();
    this.answers();
    this.lanes();
    this.uncertainty();
    this.box.dataset.end = data.end;
  }

  names(where, places) {
    const text = JSON.stringify(places);
    const box = this.root.querySelector(`.names${where}`);
    if (box.dataset.text === text) return;
    box.dataset.text = text;
    box.replaceChildren(
      ...places.map(([name, share]) => {
        const span = Object.assign(document.createElement("span"), {textContent: name});
        span.style.top = `${100 * share}%`;
        return span;
      }),
    );
  }

  list(where, names, here = -1, colours = []) {
    const text = JSON.stringify([names, here]);
    const box = this.root.querySelector(`.names${where}`);
    if (box.dataset.text === text) return;
    box.dataset.text = text;
    box.replaceChildren(
      ...names.map((name, i) => {
        const span = Object.assign(document.createElement("span"), {textContent: name, className: i === here ? "here" : ""});
        if (colours[i]) span.dataset.number = i + 1;
        if (colours[i]) span.style.setProperty("--class", colours[i]);
        return span;
      }),
    );
  }

  // A clear canvas in CSS pixels, as sharp as the screen.
  canvas(name, height) {
    const canvas = this.root.querySelector(`canvas.${name}`);
    if (height) canvas.style.height = `${height}px`;
    const scale = window.devicePixelRatio || 1;
    const [width, tall] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(tall * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(tall * scale);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, tall);
    return {pen, width, height: tall, x: (ago) => width * (1 - ago / this.data.span)};
  }

  // Where a window is drawn: from the one before it to its own end, on whole pixels, so that none overlap.
  stretch(x, i) {
    const {windows, hop} = this.data;
    const before = Math.min(windows[i - 1]?.ago ?? Infinity, windows[i].ago + 1.5 * hop);
    const left = Math.round(x(Number.isFinite(before) ? before : windows[i].ago + hop));
    return [left, Math.max(1, Math.round(x(windows[i].ago)) - left)];
  }

  spectrogram() {
    const {data} = this;
    const {pen, width, height, x} = this.canvas("spectrogram");
    pen.fillStyle = this.css[0];
    pen.fillRect(0, 0, width, height);
    const levels = bytes(data.levels);
    const columns = levels.length / data.mels;
    if (!columns) return;
    this.raster.width = columns;
    this.raster.height = data.mels;
    const ink = this.raster.getContext("2d");
    const image = ink.createImageData(columns, data.mels);
    for (let row = 0; row < data.mels; row++) {
      for (let column = 0; column < columns; column++) {
        const [r, g, b] = this.ramp[levels[row * columns + column]];
        const at = 4 * ((data.mels - 1 - row) * columns + column);
        image.data[at] = r;
        image.data[at + 1] = g;
        image.data[at + 2] = b;
        image.data[at + 3] = 255;
      }
    }
    ink.putImageData(image, 0, 0);
    const end = x(data.behind);
    const wide = (columns * data.step * width) / data.span;
    pen.imageSmoothingEnabled = false;
    pen.drawImage(this.raster, end - wide, 0, wide, height);
  }

  level() {
    const {data} = this;
    const {pen, width, height, x} = this.canvas("level");
    const peaks = bytes(data.peaks); // 0 is -80 dBFS, 255 is full scale
    const wide = (data.step * width) / data.span;
    pen.strokeStyle = data.theme.line;
    for (const db of [-60, -30]) {
      pen.beginPath();
      pen.moveTo(0, (height * -db) / 80);
      pen.lineTo(width, (height * -db) / 80);
      pen.stroke();
    }
    pen.fillStyle = data.theme.accent;
    for (let i = 0; i < peaks.length; i++) {
      const tall = (height * peaks[i]) / 255;
      pen.fillRect(x(data.behind) - (peaks.length - i) * wide, height - tall, wide + 0.5, tall);
    }
  }

  lane() {
    return parseFloat(getComputedStyle(this.box).getPropertyValue("--lane"));
  }

  answers() {
    const {data} = this;
    const lane = this.lane();
    const {pen, width, x} = this.canvas("answers", lane * data.classes.length);
    pen.fillStyle = this.css[0];
    pen.fillRect(0, 0, width, lane * data.classes.length);
    data.windows.forEach(({shares}, i) => {
      const [left, wide] = this.stretch(x, i);
      shares.forEach((share, row) => {
        if (share < 3) return;
        pen.fillStyle = this.css[Math.round(2.55 * share)];
        pen.fillRect(left, row * lane + 1, wide, lane - 2);
      });
    });
  }

  lanes() {
    const {data} = this;
    const lane = this.lane();
    const {pen, width, x} = this.canvas("lanes", lane * data.experts.length);
    pen.fillStyle = this.css[0];
    pen.fillRect(0, 0, width, lane * data.experts.length);
    data.windows.forEach(({said, routed}, i) => {
      const [left, wide] = this.stretch(x, i);
      said.forEach((label, row) => {
        if (label === null) return;
        pen.globalAlpha = routed.includes(row) ? 1 : 0.45;
        pen.fillStyle = data.colours[label];
        pen.fillRect(left, row * lane + 2, wide, lane - 4);
      });
      pen.globalAlpha = 1;
      pen.fillStyle = data.theme.ink;
      for (const row of routed) pen.fillRect(left, row * lane + lane - 4, wide, 2);
    });
    this.numbers(pen, lane, x);
  }

  // The number of the class where an expert begins to say it: colours alone are not told apart by everybody.
  numbers(pen, lane, x) {
    const {data} = this;
    pen.font = "12px " + getComputedStyle(this.box).fontFamily;
    pen.textBaseline = "middle";
    for (let row = 0; row < data.experts.length; row++) {
      let free = -Infinity;
      data.windows.forEach(({said}, i) => {
        const [left] = this.stretch(x, i);
        const text = String(said[row] + 1);
        if (said[row] === null || (i && said[row] === data.windows[i - 1].said[row]) || left < free) return;
        const wide = pen.measureText(text).width + 4;
        pen.fillStyle = data.theme.page;
        pen.fillRect(left, row * lane + 2, wide, lane - 4);
        pen.fillStyle = data.theme.ink;
        pen.fillText(text, left + 2, row * lane + lane / 2);
        free = left + wide + 1;
      });
    }
  }

  uncertainty() {
    const {data} = this;
    const {pen, width, height, x} = this.canvas("uncertainty");
    const values = data.windows.map((w) => w.doubt);
    const top = Math.max(0.1, ...values.map((v) => 1.1 * v), 1.3 * (data.limit ?? 0));
    const y = (nats) => height * (1 - nats / top);
    this.names(".nats", [[top.toPrecision(2), 0.08], ["0", 0.94]]);
    pen.strokeStyle = data.theme.line;
    pen.strokeRect(0, height - 0.5, width, 0);
    pen.strokeStyle = data.theme.accent;
    pen.lineWidth = 1.5;
    pen.beginPath();
    data.windows.forEach(({ago, doubt}, i) => {
      const apart = i > 0 && data.windows[i - 1].ago - ago > 4 * data.hop;
      pen[i === 0 || apart ? "moveTo" : "lineTo"](x(ago), y(doubt));
    });
    pen.stroke();
    if (data.limit !== null) {
      pen.strokeStyle = data.theme.ink;
      pen.setLineDash([6, 4]);
      pen.beginPath();
      pen.moveTo(0, y(data.limit));
      pen.lineTo(width, y(data.limit));
      pen.stroke();
      pen.setLineDash([]);
    }
  }
}

const pictures = new WeakMap();

export default function ({data, parentElement}) {
  if (!pictures.has(parentElement)) pictures.set(parentElement, new Picture(parentElement));
  pictures.get(parentElement).update(data);
}
