"use strict";
// Texts reach the page as text nodes only; the server's policy forbids markup made of strings.

const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share >= 0.1 ? 1 : 2)} %`;
let model = null;

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "share") node.style.setProperty("--share", String(Math.max(0, Math.min(1, value))));
    else if (name.includes("-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// ---- What the answers look like

// Names that are whole texts are "long": they stand above their bars.
function bars(items, kind = "") {
  const rows = items.map(({ name, share, value = percent(share), more = null }) =>
    make("li", {},
      make("span", { className: "name" }, name),
      make("span", { className: "track", "aria-hidden": "true" }, make("span", { share })),
      make("span", { className: "value" }, value),
      more === null ? null : make("span", { className: "more" }, more)));
  return make("ol", { className: `bars ${kind}` }, ...rows);
}

// `spans` are {start, end, label} in characters as Python counts them: code points.
function marked(text, spans) {
  const characters = Array.from(text);
  const part = (start, end) => characters.slice(start, end).join("");
  const nodes = [];
  let place = 0;
  for (const { start, end, label } of spans) {
    nodes.push(part(place, start));
    nodes.push(make("mark", {}, part(start, end), label ? make("small", {}, label) : null));
    place = end;
  }
  return make("p", { className: "passage" }, ...nodes, part(place));
}

const cut = (truncated) => truncated
  ? make("p", { className: "note" }, `The text is longer than the ${model.length} tokens that the model takes; what is beyond was left out.`)
  : null;
const heading = (text) => make("h3", {}, text);
const verdict = (text) => make("p", { className: "verdict" }, text);
const ranked = (probabilities) => Object.entries(probabilities)
  .sort((a, b) => b[1] - a[1]).map(([name, share]) => ({ name, share }));

function cosines(found, asked) {
  const texts = asked.texts;
  // Shades tell the pairs apart: raw vectors have cosines that are all high.
  const others = found.cosines.flatMap((row, i) => row.filter((_, j) => i !== j));
  const low = Math.min(...others), high = Math.max(...others, low + 1e-6);
  const head = make("tr", {}, make("td"), ...texts.map((_, j) => make("th", { scope: "col" }, String(j + 1))));
  const rows = found.cosines.map((row, i) => make("tr", {},
    make("th", { scope: "row" }, make("b", {}, `${i + 1} `), texts[i]),
    ...row.map((value, j) => make("td", { share: i === j ? 0 : 0.08 + 0.5 * (value - low) / (high - low) }, value.toFixed(3)))));
  return [make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Cosines" },
    make("table", { className: "cosines" }, make("thead", {}, head), make("tbody", {}, ...rows))),
    cut(found.truncated.some(Boolean))];
}

function pieces(found) {
  const items = found.tokens.map((token) => make("li", {
    className: [token.segment ? "second" : "", token.special ? "special" : "", token.unknown ? "unknown" : ""].join(" "),
  }, make("b", {}, token.piece), make("span", {}, `id ${token.id}`), make("span", {}, `segment ${token.segment}`), make("span", {}, `position ${token.position}`)));
  const unknown = found.unknown === 0 ? "none unknown" : `${found.unknown} unknown`;
  return [verdict(`${found.tokens.length} of ${found.longest} tokens, ${unknown}`), make("ol", { className: "pieces" }, ...items)];
}

function qa(found, asked) {
  const items = found.n_best.slice(0, 5).map((one) => ({ name: one.answer || "(no answer)", share: one.probability }));
  const where = found.start === null ? [] : [found];
  return [verdict(found.answer || "The passage does not answer this."),
    marked(asked.context, where.map(({ start, end }) => ({ start, end }))), heading("The best answers"), bars(items)];
}

function tagging(found, asked) {
  if (found.entities.length || found.tags.every((tag) => tag === "O")) {
    const list = found.entities.map((one) => ({ name: one.text, share: one.score, more: one.label }));
    return [verdict(list.length ? `${list.length} found` : "Nothing is marked in this text."),
      marked(asked.text, found.entities), ...(list.length ? [heading("How sure the model is"), bars(list)] : [])];
  }
  const items = found.tokens.map((token, i) => make("li", {}, make("b", {}, token), make("span", {}, found.tags[i])));
  return [make("ol", { className: "pieces" }, ...items)];
}

function summary(found) {
  const chosen = new Set(found.sentences);
  const nodes = found.document.flatMap((sentence, i) => [chosen.has(i) ? make("mark", {}, sentence) : sentence, " "]);
  return [verdict(`${chosen.size} of ${found.document.length} sentences`), make("p", { className: "passage" }, ...nodes)];
}

// ---- Attention: maps of all heads, the chosen one, and what a token looks at

function attention(found) {
  const T = found.tokens.length, labels = found.tokens.map((token) => token.piece);
  const state = { head: 0, token: Math.min(1, T - 1) };
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--heat");
  const map = make("canvas", { className: "map", role: "img" });
  const heads = make("div", { className: "heads", role: "group", "aria-label": "Heads" });
  const strip = make("div", { className: "strip", role: "group", "aria-label": "Tokens" });
  const title = heading(""), list = make("div");

  found.heads.forEach((weights, head) => {
    const small = make("canvas", { width: T, height: T, "aria-hidden": "true" });
    const brush = small.getContext("2d");
    paint(brush, weights, 1, 0, 0, colour);
    heads.append(make("button", { type: "button", onclick: () => choose({ head }) }, small, `Head ${head + 1}`));
  });
  labels.forEach((label, token) => strip.append(make("button", { type: "button", onclick: () => choose({ token }) }, label)));

  function choose(change) {
    Object.assign(state, change);
    const row = found.heads[state.head][state.token];
    const most = Math.max(...row);
    [...heads.children].forEach((one, head) => one.setAttribute("aria-pressed", String(head === state.head)));
    [...strip.children].forEach((one, token) => {
      one.setAttribute("aria-pressed", String(token === state.token));
      one.style.setProperty("--share", String(0.06 + 0.49 * row[token] / most));
    });
    title.textContent = `What “${labels[state.token]}” (position ${state.token}) looks at: layer ${found.layer}, head ${state.head + 1}`;
    const best = row.map((share, token) => ({ name: `${labels[token]} · ${token}`, share }))
      .sort((a, b) => b.share - a.share).slice(0, 6);
    list.replaceChildren(bars(best));
    draw(map, found.heads[state.head], labels, state.token, colour);
    map.setAttribute("aria-label", `Attention of layer ${found.layer}, head ${state.head + 1}, as a map of ${T} by ${T} tokens; the list below has the numbers of the chosen token`);
  }

  map.addEventListener("click", (event) => {
    const { margin, cell } = map.layout;
    const token = Math.floor((event.offsetY - margin) / cell);
    if (token >= 0 && token < T) choose({ token });
  });
  choose({});
  return [heading(`Layer ${found.layer}: its ${found.heads.length} heads`), heads, title, strip, list,
    heading("The chosen head: rows look at columns"), make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Map" }, map)];
}

function paint(brush, weights, cell, left, top, colour) {
  weights.forEach((row, i) => row.forEach((weight, j) => {
    brush.fillStyle = `rgba(${colour}, ${Math.sqrt(weight)})`;
    brush.fillRect(left + j * cell, top + i * cell, cell, cell);
  }));
}

function draw(canvas, weights, labels, chosen, colour) {
  const T = labels.length, cell = T <= 16 ? 30 : T <= 40 ? 18 : 11;
  const longest = Math.min(14, Math.max(...labels.map((label) => label.length)));
  const font = Math.min(13, cell - 2), margin = Math.round(longest * font * 0.62) + 12;
  const size = margin + T * cell + 2, scale = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: size * scale, height: size * scale, layout: { margin, cell } });
  Object.assign(canvas.style, { width: `${size}px`, height: `${size}px` });
  const style = getComputedStyle(document.body), brush = canvas.getContext("2d");
  brush.scale(scale, scale);
  paint(brush, weights, cell, margin, margin, colour);
  brush.strokeStyle = style.getPropertyValue("--accent");
  brush.lineWidth = 2;
  brush.strokeRect(margin, margin + chosen * cell, T * cell, cell);
  brush.fillStyle = style.color;
  brush.font = `${font}px ${style.getPropertyValue("--mono")}`;
  brush.textBaseline = "middle";
  labels.forEach((label, i) => {
    const text = Array.from(label).slice(0, 14).join(""), middle = margin + (i + 0.5) * cell;
    brush.textAlign = "right";
    brush.fillText(text, margin - 6, middle);
    brush.save();
    brush.translate(middle, margin - 6);
    brush.rotate(-Math.PI / 2);
    brush.textAlign = "left";
    brush.fillText(text, 0, 0);
    brush.restore();
  });
}

const RENDER = {
  "fill-mask": (found) => found.masks.flatMap((answers, i) => [
    ...(found.masks.length > 1 ? [heading(`Mask ${i + 1} of ${found.masks.length}`)] : []),
    bars(answers.map((one) => ({ name: one.token || "(nothing visible)", share: one.probability, more: one.text })))]),
  "next-sentence": (found) => {
    const [yes, no] = model.objective === "sop" ? ["in this order", "the other way round"] : ["the second follows", "from somewhere else"];
    return [verdict(found.follows >= 0.5 ? `Likely ${yes}` : `Likely ${no}`),
      bars([{ name: yes, share: found.follows }, { name: no, share: 1 - found.follows }]), cut(found.truncated)];
  },
  similarity: cosines,
  classification: (found) => [verdict(found.label), bars(ranked(found.probabilities)), cut(found.truncated)],
  regression: (found) => [verdict(String(Number(found.value.toPrecision(6)))), cut(found.truncated)],
  tagging, qa, attention,
  tokenize: pieces,
  "multiple-choice": (found, asked) => [verdict(found.choice),
    bars(found.probabilities.map((share, i) => ({ name: asked.choices[i], share })), "long"), cut(found.truncated)],
  ranking: (found, asked) => [
    bars(found.ranking.map((one) => ({ name: `${one.rank}. ${asked.passages[one.index]}`, share: one.score })), "long"), cut(found.truncated)],
  summarization: summary,
};

// ---- Asking

function asked(form) {
  const request = {};
  for (const field of form.elements) {
    if (!field.name || ("optional" in field.dataset && !field.value.trim())) continue;
    if ("lines" in field.dataset) request[field.name] = field.value.split("\n").map((line) => line.trim()).filter(Boolean);
    else request[field.name] = field.type === "number" || "number" in field.dataset ? Number(field.value) : field.value;
  }
  return request;
}

async function fetched(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const found = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(found.error || `The server answered with code ${response.status}.`);
  return found;
}

async function submit(section, form) {
  const button = form.querySelector("button:not([type])"), result = section.querySelector(".result");
  if (button.getAttribute("aria-disabled") === "true") return;
  const request = asked(form), begun = performance.now();
  button.setAttribute("aria-disabled", "true");
  result.setAttribute("aria-busy", "true");
  const slow = setTimeout(() => result.replaceChildren(make("p", { className: "muted" }, "Working … the first answer of each kind and length takes longest.")), 600);
  try {
    const found = await fetched(`/api/${section.id}`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request),
    });
    clearTimeout(slow);
    const took = make("p", { className: "time" }, `${Math.round(performance.now() - begun)} ms`);
    result.replaceChildren(...RENDER[section.id](found, request).filter(Boolean), took);
  } catch (error) {
    clearTimeout(slow);
    result.replaceChildren(make("p", { className: "error", role: "alert" }, error.message));
  }
  result.removeAttribute("aria-busy");
  button.removeAttribute("aria-disabled");
}

function prepare(section) {
  const form = section.querySelector("form");
  section.append(make("div", { className: "result", "aria-live": "polite" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit(section, form);
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  for (const button of form.querySelectorAll("[data-insert]")) {
    button.addEventListener("click", () => {
      const text = form.elements.text;
      text.setRangeText(button.dataset.insert, text.selectionStart, text.selectionEnd, "end");
      text.focus();
    });
  }
}

// ---- The page

function show() {
  const names = [...model.abilities, "api"];
  const wanted = location.hash.slice(1);
  const name = names.includes(wanted) ? wanted : names[0];
  for (const section of document.querySelectorAll("section")) section.hidden = section.id !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "center" });
    } else link.removeAttribute("aria-current");
  }
}

function calls() {
  return model.abilities.map((name) => {
    const body = JSON.stringify(asked(byId(name).querySelector("form")));
    // As a shell takes it: no quotation mark may end the text.
    const quoted = body.replaceAll("'", "'\\''");
    const command = `curl -H 'Content-Type: application/json' \\\n  -d '${quoted}' \\\n  ${location.origin}/api/${name}`;
    return make("div", { className: "call" }, make("h3", {}, `POST /api/${name}`), make("pre", { tabIndex: 0 }, command));
  });
}

async function begin() {
  try {
    model = await fetched("/api/model");
  } catch (error) {
    byId("trouble").textContent = error.message;
    byId("trouble").hidden = false;
    return;
  }
  const count = (number) => number.toLocaleString("en");
  document.title = `${model.name}: bert-jax serve`;
  byId("name").textContent = model.name;
  byId("about").textContent = [
    model.architecture,
    model.step === null ? "" : `step ${count(model.step)}`,
    `${count(model.parameters)} parameters`,
    `${model.layers} layers × ${model.hidden_size}`,
    `${count(model.vocabulary)} tokens (${model.tokenizer})`,
  ].filter(Boolean).join(" · ");
  for (let layer = 1; layer <= model.layers; layer += 1) {
    byId("attention").querySelector("select").append(make("option", { value: String(layer) }, String(layer)));
  }
  if (model.objective === "sop") {
    byId("pair-hint").textContent = "Whether the texts stand in this order or the other way round, as the model learned it in pre-training.";
  }
  for (const name of [...model.abilities, "api"]) {
    const title = byId(name).dataset.title;
    byId(name).prepend(make("h2", {}, title));
    byId(name).setAttribute("aria-label", title);
    byId("abilities").append(make("li", {}, make("a", { href: `#${name}` }, title)));
    if (name !== "api") prepare(byId(name));
  }
  byId("attention").querySelector("select").addEventListener("change", (event) => event.target.form.requestSubmit());
  window.addEventListener("hashchange", () => {
    if (location.hash === "#api") byId("calls").replaceChildren(...calls());
    if (location.hash !== "#main") show();
  });
  if (location.hash === "#api") byId("calls").replaceChildren(...calls());
  show();
}

begin();
