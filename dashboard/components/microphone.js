// A microphone as it is, without the filters that browsers put on speech. Three uses: "listen" sends what is heard
// on and on, "clip" records some seconds and sends them when they are over, "presence" only tells whether the tab
// can be seen.
//
// Listening loses nothing silently. An audio thread cuts numbered chunks; each is kept until the server
// acknowledges it. One packet is under way at a time, with everything that is not acknowledged, so that a slow
// server gets larger packets and not more of them. Chunks that had to be dropped, or that the browser never gave,
// leave a hole in the numbers, which the server counts.

const CHUNK_S = 0.125;
const PACKET_MS = 250;
const KEPT_S = 30;
const RESEND_MS = 2000;
const RESENDS = 20; // after which the server is gone, and the microphone is let go
const FLOOR_DB = -60;

const WORKLET = `
registerProcessor("qmoe-capture", class extends AudioWorkletProcessor {
  constructor({processorOptions}) {
    super();
    this.size = processorOptions.size;
    this.begin(0);
    this.port.onmessage = () => { this.over = true; };
  }
  begin(frame) {
    this.frame = frame;
    this.count = 0;
    this.samples = new Int16Array(this.size);
    this.peak = this.power = 0;
  }
  process(inputs) {
    if (this.over) return false;
    const heard = inputs[0][0];
    // A frame number that jumps, or no input at all, is sound the browser did not give.
    if (this.count && (!heard || currentFrame !== this.frame + this.count)) this.send();
    if (!heard) return true;
    if (!this.count) this.begin(currentFrame);
    for (let i = 0; i < heard.length; i++) {
      const value = Math.max(-1, Math.min(1, heard[i]));
      this.peak = Math.max(this.peak, Math.abs(value));
      this.power += value * value;
      this.samples[this.count++] = Math.round(value * 32767);
      if (this.count === this.size) {
        this.send();
        this.begin(currentFrame + i + 1);
      }
    }
    return true;
  }
  send() {
    const pcm = this.samples.slice(0, this.count).buffer;
    const {frame, count, peak} = this;
    const rms = Math.sqrt(this.power / count);
    this.count = 0;
    this.port.postMessage({frame, count, peak, rms, captured: Date.now(), pcm}, [pcm]);
  }
});`;

const FAILURES = {
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotFoundError: "missing",
  OverconstrainedError: "missing",
  NotReadableError: "busy",
  AbortError: "busy",
};

function base64(buffer) {
  const bytes = new Uint8Array(buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

const decibel = (x) => Math.max(FLOOR_DB, 20 * Math.log10(Math.max(x, 1e-6)));
const share = (db) => 1 - db / FLOOR_DB;

class Microphone {
  constructor(root) {
    this.root = root;
    this.find = (name) => root.querySelector(name);
    this.state = "idle";
    this.detail = "";
    this.attempt = 0; // to start; an older one that is answered late is ignored
    this.packets = 0;
    this.underway = null;
    this.resends = 0;
    this.sentAt = -Infinity;
    this.news = false; // something besides sound to tell
    this.pending = [];
    this.dropped = 0;
    this.granted = {};
    this.correction = 0;
    this.ahead = -Infinity;
    this.find(".start").onclick = () => (this.open ? this.stop("idle") : this.start());
    this.find(".pause").onclick = () => (this.state === "paused" ? this.resume() : this.pause());
    this.find(".device").onchange = () => this.open && this.start();
    this.refresh = () => this.listDevices();
    this.seen = () => this.tell();
    navigator.mediaDevices?.addEventListener("devicechange", this.refresh);
    document.addEventListener("visibilitychange", this.seen);
    this.listDevices();
  }

  get open() {
    return Boolean(this.media);
  }

  // Streamlit's side

  update(component) {
    const first = !this.data;
    this.component = component;
    this.data = component.data;
    if (first) {
      const possible = this.possible();
      if (possible) this.become(possible);
    }
    const ack = this.data.ack;
    if (ack && ack.packet !== this.acknowledged) {
      this.acknowledged = ack.packet;
      this.pending = this.pending.filter((c) => c.stream.name !== ack.stream || c.sequence > ack.sequence);
      if (this.underway && ack.packet >= this.underway.packet) {
        this.underway = null;
        this.resends = 0;
      }
      this.pump();
    }
    if (this.clip && ack?.clip === this.clip.name) this.clip = null;
    this.show();
  }

  leave() {
    // Also called for a call that a newer one overtook: the page was left only if the element is gone.
    setTimeout(() => {
      if (this.root.isConnected) return;
      navigator.mediaDevices?.removeEventListener("devicechange", this.refresh);
      document.removeEventListener("visibilitychange", this.seen);
      this.close();
    }, 0);
  }

  tell() {
    this.news = true;
    this.pump();
  }

  pump() {
    const now = performance.now();
    if (this.underway) {
      if (now - this.underway.at < RESEND_MS) return;
      if (++this.resends > RESENDS) {
        this.underway = null;
        this.resends = 0;
        this.pending = [];
        return this.stop("lost");
      }
    } else if (!this.news) {
      if (!this.pending.length || now - this.sentAt < PACKET_MS * 0.9) return;
    }
    this.news = false;
    this.sentAt = now;
    this.underway = {packet: ++this.packets, at: now};
    const stream = this.pending[0]?.stream ?? this.stream;
    const chunks = this.pending.filter((c) => c.stream === stream);
    this.component.setTriggerValue("packet", {
      packet: this.packets,
      stream: stream?.name ?? "",
      rate: stream?.rate ?? 0,
      sent: this.clock(Date.now()) / 1000,
      state: this.state,
      detail: this.detail,
      hidden: document.hidden,
      dropped: this.dropped,
      granted: this.granted,
      chunks: chunks.map(({sequence, frame, captured, pcm}) => ({sequence, frame, captured, pcm})),
    });
    setTimeout(() => this.pump(), RESEND_MS + 50);
  }

  // The time of day, except that it is never set back.
  clock(now) {
    const ahead = Date.now() - performance.now();
    if (ahead < this.ahead - 500) this.correction += this.ahead - ahead;
    this.ahead = ahead;
    return now + this.correction;
  }

  // The microphone

  possible() {
    if (!window.isSecureContext || !navigator.mediaDevices?.getUserMedia) return "insecure";
    return window.AudioWorkletNode ? "" : "unsupported";
  }

  async start() {
    const impossible = this.possible();
    if (impossible) return this.become(impossible);
    this.close();
    const attempt = ++this.attempt;
    this.become("asking");
    const device = this.find(".device").value;
    const audio = {echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1};
    if (device) audio.deviceId = {exact: device};
    let media, context;
    try {
      media = await navigator.mediaDevices.getUserMedia({audio});
      const [track] = media.getAudioTracks();
      const settings = track.getSettings();
      try {
        context = new AudioContext({sampleRate: settings.sampleRate, latencyHint: "playback"});
        context.createMediaStreamSource(media).disconnect(); // some browsers refuse another rate than the device's
      } catch {
        context?.close();
        context = new AudioContext({latencyHint: "playback"});
      }
      const url = URL.createObjectURL(new Blob([WORKLET], {type: "text/javascript"}));
      try {
        await context.audioWorklet.addModule(url);
      } finally {
        URL.revokeObjectURL(url);
      }
      await context.resume();
      if (attempt !== this.attempt || !this.root.isConnected) throw new DOMException("overtaken", "Overtaken");
      const {echoCancellation, noiseSuppression, autoGainControl, sampleRate, channelCount} = settings;
      this.granted = {echoCancellation, noiseSuppression, autoGainControl, sampleRate, channelCount};
      this.granted.label = track.label;
      this.media = media;
      this.context = context;
      this.node = new AudioWorkletNode(context, "qmoe-capture", {
        channelCount: 1,
        channelCountMode: "explicit",
        processorOptions: {size: Math.round(CHUNK_S * context.sampleRate)},
      });
      this.node.port.onmessage = ({data}) => this.heard(data);
      context.createMediaStreamSource(media).connect(this.node).connect(context.destination); // silence goes there
      track.onended = () => this.stop("vanished");
      track.onmute = () => this.open && this.become("interrupted");
      track.onunmute = () => this.open && this.become("listening");
      context.onstatechange = () => this.changed(context);
      this.begin();
      this.become("listening");
      this.listDevices();
    } catch (error) {
      media?.getTracks().forEach((track) => track.stop());
      context?.close();
      if (attempt === this.attempt) this.become(FAILURES[error.name] ?? "failed", `${error.name}: ${error.message}`);
    }
  }

  begin() {
    const name = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}`;
    this.stream = {name, rate: this.context.sampleRate};
    this.sequence = 0;
    this.recorded = [];
    this.frames = 0;
    this.waited = 0;
  }

  changed(context) {
    // A phone call or another app took the microphone; the browser may give it back.
    if (context !== this.context || this.state === "paused") return;
    if (context.state === "interrupted" || context.state === "suspended") this.become("interrupted");
    if (context.state === "running" && this.state === "interrupted") this.become("listening");
  }

  heard({frame, count, peak, rms, captured, pcm}) {
    if (!this.open || this.state === "paused") return;
    this.level(peak, rms);
    if (this.data.use === "clip") return this.record(pcm, count);
    const {stream, sequence} = this;
    this.sequence++;
    this.pending.push({stream, sequence, frame, captured: this.clock(captured) / 1000, pcm: base64(pcm)});
    while (this.pending.length > KEPT_S / CHUNK_S) {
      this.pending.shift();
      this.dropped++;
    }
    this.pump();
  }

  record(pcm, count) {
    this.waited += count;
    if (this.waiting() > 0) return this.show();
    this.recorded.push(new Uint8Array(pcm));
    this.frames += count;
    if (this.frames >= this.data.seconds * this.stream.rate) this.stop("idle");
    else this.show();
  }

  // Seconds until a recording with a countdown begins.
  waiting() {
    return (this.data.countdown ?? 0) - this.waited / this.stream.rate;
  }

  pause() {
    this.become("paused");
    this.level(0, 0);
  }

  resume() {
    this.begin();
    this.become("listening");
  }

  stop(state) {
    const {recorded, stream} = this;
    this.close();
    if (this.data.use === "clip" && recorded?.length) {
      const bytes = new Uint8Array(recorded.reduce((n, part) => n + part.length, 0));
      recorded.reduce((at, part) => (bytes.set(part, at), at + part.length), 0);
      this.clip = {name: stream.name, rate: stream.rate, granted: this.granted, pcm: base64(bytes.buffer)};
      this.handIn(RESENDS);
    }
    this.become(state);
  }

  // Again and again, until the server says that it has the recording.
  handIn(tries) {
    if (!this.clip || !tries || !this.root.isConnected) return;
    this.component.setTriggerValue("clip", this.clip);
    setTimeout(() => this.handIn(tries - 1), RESEND_MS);
  }

  close() {
    this.attempt++;
    this.node?.port.postMessage("over");
    this.node?.disconnect();
    this.media?.getTracks().forEach((track) => {
      track.onended = null;
      track.stop();
    });
    if (this.context && this.context.state !== "closed") this.context.close();
    this.node = this.media = this.context = null;
    this.recorded = null;
    this.level(0, 0);
  }

  // What is seen

  become(state, detail = "") {
    this.state = state;
    this.detail = detail;
    this.show();
    this.tell();
  }

  show() {
    if (!this.data) return;
    const {words, use, seconds} = this.data;
    this.find(".microphone").hidden = use === "presence";
    const clip = use === "clip";
    this.find(".start").textContent = this.open ? words.stop : clip ? words.record : words.start;
    this.find(".start").disabled = this.state === "asking";
    this.find(".pause").hidden = !this.open || clip;
    this.find(".pause").textContent = this.state === "paused" ? words.resume : words.pause;
    let sentence = words.states[this.state] ?? this.state;
    if (clip && this.open) {
      const wait = Math.ceil(this.waiting());
      const done = `${(this.frames / this.stream.rate).toFixed(1)} / ${seconds} s`;
      sentence = wait > 0 ? `${words.soon} ${wait} …` : done;
    }
    if (this.find(".sentence").textContent !== sentence) this.find(".sentence").textContent = sentence;
  }

  level(peak, rms) {
    const [high, mean] = [decibel(peak), decibel(rms)];
    this.find(".rms").style.transform = `scaleX(${share(mean)})`;
    this.find(".peak").style.transform = `translateX(${100 * share(high)}%)`;
    this.find(".clipped").hidden = peak < 0.999;
    this.find(".level").setAttribute("aria-valuenow", Math.round(mean));
  }

  async listDevices() {
    if (!navigator.mediaDevices?.enumerateDevices) return;
    const select = this.find(".device");
    const found = (await navigator.mediaDevices.enumerateDevices()).filter((d) => d.kind === "audioinput" && d.deviceId);
    const chosen = select.value;
    select.replaceChildren(select.options[0]);
    for (const {deviceId, label} of found) {
      if (deviceId !== "default") select.add(new Option(label || "microphone", deviceId));
    }
    select.value = found.some((d) => d.deviceId === chosen) ? chosen : "";
    select.parentElement.hidden = select.options.length < 2;
  }
}

const microphones = new WeakMap();

export default function (component) {
  const root = component.parentElement;
  if (!microphones.has(root)) microphones.set(root, new Microphone(root));
  const microphone = microphones.get(root);
  microphone.update(component);
  return () => microphone.leave();
}
