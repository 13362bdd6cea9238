// The search takes questions: words that say nothing are left out, and only the last word may go on.
// It runs in a worker, which a browser does not start from a file: there a hidden frame takes its place.
const SAYS_NOTHING = new Set(
  "a an and are as be by can do does for from get had has have how i if in into is it its made me my of on or that the there this to was we what when where which who why will with you your".split(" "),
);
const QUERY = 2;

function asked(message) {
  if (message.type !== QUERY || typeof message.data !== "string" || /["+:^~*-]/.test(message.data)) return message;
  const words = message.data.split(/\s+/).filter((word) => word && !SAYS_NOTHING.has(word.toLowerCase().replace(/\W+$/, "")));
  if (!words.length) return message;
  const last = words.at(-1); // whole, or the beginning of a word
  return { ...message, data: [...words.map((word) => `${word}^1`), last].join(" ") };
}

class FrameWorker extends EventTarget {
  constructor(address) {
    super();
    this.waiting = [];
    const frame = document.createElement("iframe");
    frame.hidden = true;
    frame.title = "search";
    (document.body ?? document.documentElement).append(frame);
    this.inner = frame.contentWindow;
    this.inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
    const script = frame.contentDocument.createElement("script");
    script.src = new URL(address, location.href).href;
    script.onload = () => {
      const waiting = this.waiting;
      this.waiting = null;
      waiting.forEach((data) => this.postMessage(data));
    };
    frame.contentDocument.documentElement.append(script);
  }
  postMessage(data) {
    if (this.waiting) this.waiting.push(data);
    else this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data }));
  }
  terminate() {}
}

window.Worker = class extends (location.protocol === "file:" ? FrameWorker : Worker) {
  postMessage(message) {
    super.postMessage(asked(message));
  }
};
