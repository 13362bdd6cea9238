"use strict";
// The small model that several explorables run on, with its tokenizer: `model.js` has its numbers, tools/guide_model.py
// made them. A forward pass reads one token after the other and keeps keys and values.
guide.pattern = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
guide.ready = function () {
  if (guide.held) return guide.held;
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const tensors = {};
  for (const [name, t] of Object.entries(guideModel.tensors)) {
    if (t.float32) tensors[name] = new Float32Array(bytes(t.float32).buffer);
    else {
      const [codes, scale] = [new Int8Array(bytes(t.int8).buffer), new Float32Array(bytes(t.scale).buffer)];
      tensors[name] = Float32Array.from(codes, (c, i) => c * scale[Math.floor(i / t.shape[1])]);
      tensors[name].width = t.shape[1];
    }
  }
  const vocabulary = guideModel.vocabulary.map((hex) => Uint8Array.from(hex.match(/../g), (h) => parseInt(h, 16)));
  const ids = new Map(guideModel.vocabulary.map((hex, i) => [hex, i]).filter(([, i]) => i >= guideModel.special));
  const layers = Object.keys(tensors).filter((name) => name.endsWith("q_proj.weight")).length;
  return (guide.held = { tensors, vocabulary, ids, layers });
};
guide.piece = (id) => new TextDecoder().decode(guide.ready().vocabulary[id]);
guide.decode = (ids) => new TextDecoder().decode(Uint8Array.from(ids.flatMap((id) => [...guide.ready().vocabulary[id]])));
guide.merges = function (word) {
  // Byte-level BPE of one piece: the pair whose token is the earliest learned is joined, again and again.
  const { ids } = guide.ready();
  const hex = (bytes) => [...bytes].map((b) => b.toString(16).padStart(2, "0"));
  let parts = hex(new TextEncoder().encode(word));
  const steps = [parts];
  for (;;) {
    let [best, at] = [Infinity, -1];
    for (let i = 0; i + 1 < parts.length; i++) {
      const id = ids.get(parts[i] + parts[i + 1]);
      if (id !== undefined && id < best) [best, at] = [id, i];
    }
    if (at < 0) return { steps, ids: parts.map((p) => ids.get(p)) };
    const pair = parts[at] + parts[at + 1];
    const joined = [];
    for (let i = 0; i < parts.length; i++)
      if (i + 1 < parts.length && parts[i] + parts[i + 1] === pair) joined.push(parts[i++] + parts[i]);
      else joined.push(parts[i]);
    steps.push((parts = joined));
  }
};
guide.encode = (text) => (text.match(guide.pattern) || []).flatMap((word) => guide.merges(word).ids);

guide.norm = function (x, weight) {
  const scale = 1 / Math.sqrt(guide.mean(x.map((v) => v * v)) + 1e-6);
  return x.map((v, i) => v * scale * weight[i]);
};
guide.times = function (matrix, x) {
  const out = [];
  for (let row = 0; row < matrix.length; row += matrix.width) {
    let total = 0;
    for (let i = 0; i < matrix.width; i++) total += matrix[row + i] * x[i];
    out.push(total);
  }
  return out;
};
guide.begin = () => ({ keys: [], values: [], length: 0, attention: [] });
guide.branch = (state) => ({ ...state, keys: state.keys.map((l) => [...l]), values: state.values.map((l) => [...l]), attention: [] });
guide.read = function (state, id) {
  // The logits of what follows; state.attention[layer][head] has a row of weights a token.
  const { tensors, layers } = guide.ready();
  const heads = guideModel.heads;
  const table = tensors["model.embed_tokens.weight"];
  let x = [...table.subarray(id * table.width, (id + 1) * table.width)];
  const size = x.length / heads;
  const turned = (v) => {
    const out = [...v];
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < size / 2; i++) {
        const angle = Math.fround(state.length * Math.fround(10000 ** ((-2 * i) / size)));
        const [c, s, a, b] = [Math.cos(angle), Math.sin(angle), h * size + i, h * size + i + size / 2];
        out[a] = v[a] * c - v[b] * s;
        out[b] = v[b] * c + v[a] * s;
      }
    return out;
  };
  for (let l = 0; l < layers; l++) {
    const w = (name) => tensors[`model.layers.${l}.${name}.weight`];
    const n = guide.norm(x, w("input_layernorm"));
    const [q, k, v] = [turned(guide.times(w("self_attn.q_proj"), n)), turned(guide.times(w("self_attn.k_proj"), n)), guide.times(w("self_attn.v_proj"), n)];
    const keys = (state.keys[l] ||= []);
    const values = (state.values[l] ||= []);
    keys.push(k);
    values.push(v);
    const mixed = Array(x.length).fill(0);
    for (let h = 0; h < heads; h++) {
      const weights = guide.softmax(keys.map((key) => {
        let score = 0;
        for (let i = h * size; i < (h + 1) * size; i++) score += q[i] * key[i];
        return score / Math.sqrt(size);
      }));
      weights.forEach((weight, t) => {
        for (let i = h * size; i < (h + 1) * size; i++) mixed[i] += weight * values[t][i];
      });
      ((state.attention[l] ||= [])[h] ||= []).push(weights);
    }
    const after = guide.times(w("self_attn.o_proj"), mixed);
    x = x.map((value, i) => value + after[i]);
    const m = guide.norm(x, w("post_attention_layernorm"));
    const [gate, up] = [guide.times(w("mlp.gate_proj"), m), guide.times(w("mlp.up_proj"), m)];
    const down = guide.times(w("mlp.down_proj"), gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]));
    x = x.map((value, i) => value + down[i]);
  }
  state.length++;
  return guide.times(table, guide.norm(x, tensors["model.norm.weight"]));
};
guide.prompt = function (text) {
  // A state that has read a text, and the logits after it; texts are cut to the model's length.
  const ids = guide.encode(text).slice(-96);
  if (!ids.length) throw new Error("a prompt is needed");
  const state = guide.begin();
  let logits = [];
  for (const id of ids) logits = guide.read(state, id);
  return { ids, state, logits };
};
guide.about = () => guide.say(`The model has ${guide.short(guideModel.made.parameters)} parameters and read ${guide.short(guideModel.made.characters)} characters of this project's own pages for ${guide.short(guideModel.made.steps)} steps, so it writes about language models, and not well.`);
