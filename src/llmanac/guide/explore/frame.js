"use strict";
// The frame of every explorable: its controls, what it shows, and the arithmetic that several share. A classic script
// with no other file, so that a page opens from a folder. A page's file calls `explorable({controls, compute, show})`:
// `compute(values)` gives plain data, which the tests compare with the package's; `show(found, values)` gives elements.
var guide = { measured: {}, page: null };

guide.make = function (name, attributes, ...inside) {
  const spaces = { svg: 1, g: 1, line: 1, rect: 1, text: 1, polyline: 1, circle: 1, title: 1 };
  const made = name in spaces ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...inside.map((one) => (typeof one === "number" ? String(one) : one)));
  return made;
};

// ---- numbers ----
guide.softmax = function (scores, temperature = 1) {
  const top = Math.max(...scores);
  const parts = scores.map((s) => Math.exp((s - top) / temperature));
  const total = parts.reduce((a, b) => a + b, 0);
  return parts.map((p) => p / total);
};
guide.sum = (values) => values.reduce((a, b) => a + b, 0);
guide.dot = (a, b) => guide.sum(a.map((x, i) => x * b[i]));
guide.mean = (values) => guide.sum(values) / values.length;
guide.random = function (seed) {
  // Numbers in [0, 1) of a 32-bit counter, mixed: the same on every machine.
  let state = seed >>> 0;
  return function () {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return ((z ^ (z >>> 16)) >>> 0) / 4294967296;
  };
};
guide.normals = function (count, seed) {
  const draw = guide.random(seed);
  const found = [];
  while (found.length < count) {
    const size = Math.sqrt(-2 * Math.log(1 - draw()));
    const turn = 2 * Math.PI * draw();
    found.push(size * Math.cos(turn), size * Math.sin(turn));
  }
  return found.slice(0, count);
};
guide.numbers = function (text, low, high, most) {
  const found = text.replaceAll(",", " ").split(/\s+/).filter(Boolean).map(Number);
  if (!found.length || found.length > most || found.some((v) => !(v >= low && v <= high)))
    throw new Error(`1 to ${most} numbers between ${low} and ${high} are needed`);
  return found;
};
guide.quantile = function (sorted, share) {
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
};
guide.kept = function (logits, v) {
  // Probabilities after temperature, then top-k, top-p and min-p, each of what the one before it left.
  let p = guide.softmax(logits, v.temperature);
  const again = (keep) => {
    p = p.map((x, i) => (keep[i] ? x : 0));
    const total = guide.sum(p);
    p = p.map((x) => x / total);
  };
  const order = p.map((_, i) => i).sort((a, b) => logits[b] - logits[a] || a - b);
  if (v.topK) again(p.map((_, i) => logits[i] >= logits[order[Math.min(v.topK, p.length) - 1]]));
  if (v.topP < 1) {
    const keep = p.map(() => false);
    let mass = 0;
    for (const i of order) {
      if (mass >= v.topP) break;
      keep[i] = true;
      mass += p[i];
    }
    again(keep);
  }
  if (v.minP) {
    const bound = v.minP * Math.max(...p);
    again(p.map((x) => x > 0 && x >= bound));
  }
  return p;
};
guide.cuts = [
  { name: "temperature", label: "Temperature", low: 0.1, high: 3, step: 0.05, value: 1 },
  { name: "topK", label: "Top-k (0: all)", low: 0, high: 40, step: 1, value: 0 },
  { name: "topP", label: "Top-p", low: 0.05, high: 1, step: 0.01, value: 1 },
  { name: "minP", label: "Min-p", low: 0, high: 1, step: 0.01, value: 0 },
];

// ---- what is shown ----
guide.short = function (value) {
  if (typeof value !== "number") return value;
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e15) return value.toLocaleString("en-US");
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(3) : String(Number(value.toPrecision(4)));
};
guide.bytes = function (count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  for (; count >= 1024 && at < units.length - 1; at++) count /= 1024;
  return `${guide.short(count)} ${units[at]}`;
};
guide.percent = (p) => `${Number((100 * p).toPrecision(3))}%`;
guide.visible = (text) => text.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "→");
guide.say = (text) => guide.make("p", {}, text);
guide.wide = (label, inside) => guide.make("div", { class: "wide", tabindex: "0", role: "group", "aria-label": label }, inside);
guide.table = function (caption, heads, rows) {
  const cell = (tag, what, more) => guide.make(tag, more || {}, guide.short(what));
  const body = rows.map((row) => guide.make("tr", {}, ...row.map((c) => cell("td", c))));
  const head = heads.map((h) => (h ? cell("th", h, { scope: "col" }) : guide.make("td")));
  return guide.wide(caption, guide.make("table", {}, guide.make("caption", {}, caption),
    guide.make("thead", {}, guide.make("tr", {}, ...head)), guide.make("tbody", {}, ...body)));
};
guide.tokens = function (list) {
  // [text, what is shown on hover, share between 0 and 1]
  const parts = list.map(([text, title, share]) => {
    const shade = Math.min(4, Math.floor(5 * Math.max(0, share)));
    return guide.make("span", { class: `token p${shade}`, title }, guide.visible(text));
  });
  return guide.make("p", { class: "tokens" }, ...parts.flatMap((p) => [p, guide.make("wbr")]));
};
guide.svg = function (width, height, label, parts) {
  return guide.wide(label, guide.make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ...parts));
};
guide.text = (x, y, words, more) => guide.make("text", { x, y, ...(more || {}) }, words);
guide.bars = function (label, rows) {
  // [name, value] from a common zero
  const values = rows.map((r) => r[1]);
  const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
  const scale = 150 / (high - low || 1);
  const zero = 110 - low * scale;
  const parts = [guide.make("line", { x1: zero, x2: zero, y1: 0, y2: 22 * rows.length, class: "axis" })];
  rows.forEach(([name, value], i) => {
    const wide = Math.abs(value) * scale;
    parts.push(guide.text(104, 22 * i + 15, name.slice(0, 18), { "text-anchor": "end" }));
    parts.push(guide.make("rect", { x: value < 0 ? zero - wide : zero, y: 22 * i + 4, width: wide, height: 14, class: "mark a" }));
    parts.push(guide.text(266, 22 * i + 15, guide.short(value)));
  });
  return guide.svg(330, 22 * rows.length + 2, label, parts);
};
guide.plot = function (label, across, up, lines, more) {
  // lines: {name, points: [[x, y], ...]}; more.logX, more.logY
  const { logX, logY } = more || {};
  const wide = 330, high = 220, left = 48, base = 176;
  const xs = lines.flatMap((l) => l.points.map((p) => (logX ? Math.log10(p[0]) : p[0])));
  const ys = lines.flatMap((l) => l.points.map((p) => (logY ? Math.log10(p[1]) : p[1])));
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const at = (p) => [left + ((logX ? Math.log10(p[0]) : p[0]) - x0) / (x1 - x0 || 1) * (wide - left - 12),
    base - ((logY ? Math.log10(p[1]) : p[1]) - y0) / (y1 - y0 || 1) * (base - 24)];
  const value = (v, log) => guide.short(Number((log ? 10 ** v : v).toPrecision(3)));
  const parts = [
    guide.make("line", { x1: left, x2: wide - 12, y1: base, y2: base, class: "axis" }),
    guide.make("line", { x1: left, x2: left, y1: 20, y2: base, class: "axis" }),
    guide.text(left, base + 16, value(x0, logX)), guide.text(wide - 12, base + 16, value(x1, logX), { "text-anchor": "end" }),
    guide.text((left + wide) / 2, base + 32, across, { "text-anchor": "middle" }),
    guide.text(left - 4, base, value(y0, logY), { "text-anchor": "end" }), guide.text(left - 4, 28, value(y1, logY), { "text-anchor": "end" }),
    guide.text(4, 12, up),
  ];
  lines.forEach((line, i) => {
    const kind = "abcd"[i % 4];
    parts.push(guide.make("polyline", { points: line.points.map((p) => at(p).map((v) => v.toFixed(1)).join(",")).join(" "), class: `path ${kind}` }));
    if (line.dot) {
      const [cx, cy] = at(line.dot);
      parts.push(guide.make("circle", { cx, cy, r: 4, class: `mark ${kind}` }));
    }
  });
  const names = lines.length > 1 ? guide.make("p", { class: "key" }, ...lines.map((l, i) => guide.make("span", { class: `name ${"abcd"[i % 4]}` }, l.name))) : "";
  return guide.make("div", {}, guide.svg(wide, high, label, parts), names);
};
guide.grid = function (label, names, values) {
  // shares of row over column as squares; one name for both
  const parts = [];
  values.forEach((row, y) => {
    parts.push(guide.text(84, 16 * y + 12, guide.visible(names[y]).slice(0, 11), { "text-anchor": "end" }));
    row.forEach((value, x) => {
      if (value >= 0.02) parts.push(guide.make("rect", { x: 90 + 16 * x, y: 16 * y, width: 15, height: 15, class: "mark a", "fill-opacity": Math.min(1, value).toFixed(2) }));
    });
  });
  return guide.svg(92 + 16 * names.length, 16 * names.length + 2, label, parts);
};

// ---- the page ----
guide.control = function (c, change) {
  const id = `c-${c.name}`;
  const label = guide.make("label", { for: id }, c.label);
  let input;
  const out = guide.make("output", { for: id });
  if (c.options) input = guide.make("select", { id }, ...c.options.map((o) => guide.make("option", o === c.value ? { selected: "" } : {}, o)));
  else if (c.text !== undefined) {
    input = guide.make(c.lines ? "textarea" : "input", { id, maxlength: c.most || 400, spellcheck: "false", ...(c.lines ? { rows: c.lines } : { type: "text" }) });
    input.value = c.text;
  } else input = guide.make("input", { id, type: "range", min: c.low, max: c.high, step: c.step, value: c.value });
  const read = () => (c.options || c.text !== undefined ? input.value : Number(input.value));
  const tell = () => (out.textContent = c.says ? c.says(read()) : guide.short(read()));
  if (input.type === "range") tell();
  input.addEventListener("input", () => {
    if (input.type === "range") tell();
    change();
  });
  return { read, parts: input.type === "range" ? [label, guide.make("span", { class: "slide" }, input, out)] : [label, input] };
};
guide.start = function (page) {
  const place = document.getElementById("explorable");
  guide.measured = JSON.parse(place.dataset.measured || "{}");
  const shown = guide.make("div", { class: "demo", id: "shown" });
  const said = guide.make("p", { class: "error", role: "alert", hidden: "" });
  let waiting = false;
  const draw = () => {
    waiting = false;
    const values = Object.fromEntries(Object.entries(controls).map(([name, c]) => [name, c.read()]));
    try {
      shown.replaceChildren(...page.show(page.compute(values), values));
      said.hidden = true;
    } catch (error) {
      said.textContent = error.message;
      said.hidden = false;
      if (!/needed|at most|empty|below|above/.test(error.message)) throw error;
    }
  };
  const change = () => {
    if (!waiting) setTimeout(draw, 0);
    waiting = true;
  };
  const form = guide.make("form", { class: "knobs", "aria-label": "Settings" });
  const controls = {};
  for (const c of page.controls) {
    controls[c.name] = guide.control(c, change);
    form.append(...controls[c.name].parts);
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  place.replaceChildren(form, said, shown);
  draw();
};
function explorable(page) {
  guide.page = page;
  if (typeof document !== "undefined") guide.start(page);
}
