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

// ---- Elements of answers

// Names that are whole texts are "long": they are above their bars.
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
  let position = 0;
  for (const { start, end, label } of spans) {
    nodes.push(part(position, start));
    nodes.push(make("mark", {}, part(start, end), label ? make("small", {}, label) : null));
    position = end;
  }
  return make("p", { className: "passage" }, ...nodes, part(position));
}

const cut = (truncated) => truncated
  ? make("p", { className: "note" }, `The text is longer than the ${model.length} tokens of a row. The rest was ignored.`)
  : null;
const heading = (text) => make("h3", {}, text);
const verdict = (text) => make("p", { className: "verdict" }, text);
const ranked = (probabilities) => Object.entries(probabilities)
  .sort((a, b) => b[1] - a[1]).map(([name, share]) => ({ name, share }));

function cosines(answer, request) {
  const texts = request.texts;
  // Shades are relative: all cosines of raw vectors are high.
  const others = answer.cosines.flatMap((row, i) => row.filter((_, j) => i !== j));
  const low = Math.min(...others), high = Math.max(...others, low + 1e-6);
  const head = make("tr", {}, make("td"), ...texts.map((_, j) => make("th", { scope: "col" }, String(j + 1))));
  const rows = answer.cosines.map((row, i) => make("tr", {},
    make("th", { scope: "row" }, make("b", {}, `${i + 1} `), texts[i]),
    ...row.map((value, j) => make("td", { share: i === j ? 0 : 0.08 + 0.5 * (value - low) / (high - low) }, value.toFixed(3)))));
  return [make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Cosines" },
    make("table", { className: "cosines" }, make("thead", {}, head), make("tbody", {}, ...rows))),
    cut(answer.truncated.some(Boolean))];
}

function pieces(answer) {
  const items = answer.tokens.map((token) => make("li", {
    className: [token.segment ? "second" : "", token.special ? "special" : "", token.unknown ? "unknown" : ""].join(" "),
  }, make("b", {}, token.piece), make("span", {}, `id ${token.id}`), make("span", {}, `segment ${token.segment}`), make("span", {}, `position ${token.position}`)));
  const unknown = answer.unknown === 0 ? "no unknown tokens" : `${answer.unknown} unknown`;
  return [verdict(`${answer.tokens.length} of ${answer.longest} tokens, ${unknown}`), make("ol", { className: "pieces" }, ...items)];
}

function qa(answer, request) {
  const items = answer.n_best.slice(0, 5).map((item) => ({ name: item.answer || "(no answer)", share: item.probability }));
  const spans = answer.start === null ? [] : [answer];
  return [verdict(answer.answer || "The passage has no answer."),
    marked(request.context, spans.map(({ start, end }) => ({ start, end }))), heading("Best answers"), bars(items)];
}

function tagging(answer, request) {
  if (answer.entities.length || answer.tags.every((tag) => tag === "O")) {
    const list = answer.entities.map((item) => ({ name: item.text, share: item.score, more: item.label }));
    return [verdict(list.length ? `${list.length} found` : "No entities found."),
      marked(request.text, answer.entities), ...(list.length ? [heading("Probabilities"), bars(list)] : [])];
  }
  const items = answer.tokens.map((token, i) => make("li", {}, make("b", {}, token), make("span", {}, answer.tags[i])));
  return [make("ol", { className: "pieces" }, ...items)];
}

function summary(answer) {
  const chosen = new Set(answer.sentences);
  const nodes = answer.document.flatMap((sentence, i) => [chosen.has(i) ? make("mark", {}, sentence) : sentence, " "]);
  return [verdict(`${chosen.size} of ${answer.document.length} sentences`), make("p", { className: "passage" }, ...nodes)];
}

// ---- Attention: maps of all heads, the selected head, and the attention of a token

function attention(answer) {
  const T = answer.tokens.length, labels = answer.tokens.map((token) => token.piece);
  const state = { head: 0, token: Math.min(1, T - 1) };
  const color = getComputedStyle(document.documentElement).getPropertyValue("--heat");
  const map = make("canvas", { className: "map", role: "img" });
  const heads = make("div", { className: "heads", role: "group", "aria-label": "Heads" });
  const strip = make("div", { className: "strip", role: "group", "aria-label": "Tokens" });
  const title = heading(""), list = make("div");

  answer.heads.forEach((weights, head) => {
    const small = make("canvas", { width: T, height: T, "aria-hidden": "true" });
    const brush = small.getContext("2d");
    paint(brush, weights, 1, 0, 0, color);
    heads.append(make("button", { type: "button", onclick: () => choose({ head }) }, small, `Head ${head + 1}`));
  });
  labels.forEach((label, token) => strip.append(make("button", { type: "button", onclick: () => choose({ token }) }, label)));

  function choose(change) {
    Object.assign(state, change);
    const row = answer.heads[state.head][state.token];
    const most = Math.max(...row);
    [...heads.children].forEach((button, head) => button.setAttribute("aria-pressed", String(head === state.head)));
    [...strip.children].forEach((button, token) => {
      button.setAttribute("aria-pressed", String(token === state.token));
      button.style.setProperty("--share", String(0.06 + 0.49 * row[token] / most));
    });
    title.textContent = `Attention of “${labels[state.token]}” (position ${state.token}): layer ${answer.layer}, head ${state.head + 1}`;
    const best = row.map((share, token) => ({ name: `${labels[token]} · ${token}`, share }))
      .sort((a, b) => b.share - a.share).slice(0, 6);
    list.replaceChildren(bars(best));
    draw(map, answer.heads[state.head], labels, state.token, color);
    map.setAttribute("aria-label", `Attention of layer ${answer.layer}, head ${state.head + 1}, as a map of ${T} by ${T} tokens; the list has the values of the selected token`);
  }

  map.addEventListener("click", (event) => {
    const { margin, cell } = map.layout;
    const token = Math.floor((event.offsetY - margin) / cell);
    if (token >= 0 && token < T) choose({ token });
  });
  choose({});
  return [heading(`Layer ${answer.layer}: ${answer.heads.length} heads`), heads, title, strip, list,
    heading("Selected head: attention of each row to each column"), make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Map" }, map)];
}

function paint(brush, weights, cell, left, top, color) {
  weights.forEach((row, i) => row.forEach((weight, j) => {
    brush.fillStyle = `rgba(${color}, ${Math.sqrt(weight)})`;
    brush.fillRect(left + j * cell, top + i * cell, cell, cell);
  }));
}

function draw(canvas, weights, labels, selected, color) {
  const T = labels.length, cell = T <= 16 ? 30 : T <= 40 ? 18 : 11;
  const longest = Math.min(14, Math.max(...labels.map((label) => label.length)));
  const font = Math.min(13, cell - 2), margin = Math.round(longest * font * 0.62) + 12;
  const size = margin + T * cell + 2, scale = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: size * scale, height: size * scale, layout: { margin, cell } });
  Object.assign(canvas.style, { width: `${size}px`, height: `${size}px` });
  const style = getComputedStyle(document.body), brush = canvas.getContext("2d");
  brush.scale(scale, scale);
  paint(brush, weights, cell, margin, margin, color);
  brush.strokeStyle = style.getPropertyValue("--accent");
  brush.lineWidth = 2;
  brush.strokeRect(margin, margin + selected * cell, T * cell, cell);
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

// A task without an entry below: its label or value, and bars of its probabilities.
function generic(answer) {
  const { label, value, probabilities, truncated, ...rest } = answer;
  const result = label ?? (value === undefined ? null : String(Number(value.toPrecision(6))));
  return [result === null ? null : verdict(result), probabilities ? bars(ranked(probabilities)) : null,
    Object.keys(rest).length ? make("pre", { tabIndex: 0 }, JSON.stringify(rest, null, 1)) : null, cut(truncated)];
}

const RENDER = {
  "fill-mask": (answer) => answer.masks.flatMap((tokens, i) => [
    ...(answer.masks.length > 1 ? [heading(`Mask ${i + 1} of ${answer.masks.length}`)] : []),
    bars(tokens.map((token) => ({ name: token.token || "(nothing visible)", share: token.probability, more: token.text })))]),
  "next-sentence": (answer) => {
    const [yes, no] = model.objective === "sop" ? ["this order", "the reverse order"] : ["the second follows the first", "unrelated"];
    return [verdict(answer.follows >= 0.5 ? `Likely ${yes}` : `Likely ${no}`),
      bars([{ name: yes, share: answer.follows }, { name: no, share: 1 - answer.follows }]), cut(answer.truncated)];
  },
  similarity: cosines,
  tagging, qa, attention,
  tokenize: pieces,
  "multiple-choice": (answer, request) => [verdict(answer.choice),
    bars(answer.probabilities.map((share, i) => ({ name: request.choices[i], share })), "long"), cut(answer.truncated)],
  ranking: (answer, request) => [
    bars(answer.ranking.map((passage) => ({ name: `${passage.rank}. ${request.passages[passage.index]}`, share: passage.score })), "long"), cut(answer.truncated)],
  summarization: summary,
  "multi-label": (answer) => [verdict(answer.labels.join(", ") || "No label"),
    bars(ranked(answer.probabilities).map((item) => ({ ...item, more: answer.labels.includes(item.name) ? "chosen" : null }))), cut(answer.truncated)],
};

// ---- Requests

function requestOf(form) {
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
    throw new Error("The server does not answer. Check that bert-jax serve is running.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `The server answered with code ${response.status}.`);
  return answer;
}

async function submit(section, form) {
  const button = form.querySelector("button:not([type])"), result = section.querySelector(".result");
  if (button.getAttribute("aria-disabled") === "true") return;
  const request = requestOf(form), start = performance.now();
  button.setAttribute("aria-disabled", "true");
  result.setAttribute("aria-busy", "true");
  const slow = setTimeout(() => result.replaceChildren(make("p", { className: "muted" }, "Working … the first request of each kind and length takes longest.")), 600);
  try {
    const answer = await fetched(`/api/${section.id}`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request),
    });
    clearTimeout(slow);
    const duration = make("p", { className: "time" }, `${Math.round(performance.now() - start)} ms`);
    result.replaceChildren(...(RENDER[section.id] ?? generic)(answer, request).filter(Boolean), duration);
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
  const requested = location.hash.slice(1);
  const name = names.includes(requested) ? requested : names[0];
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
    const body = JSON.stringify(requestOf(byId(name).querySelector("form")));
    // Quoted for a shell.
    const quoted = body.replaceAll("'", "'\\''");
    const command = `curl -H 'Content-Type: application/json' \\\n  -d '${quoted}' \\\n  ${location.origin}/api/${name}`;
    return make("div", { className: "call" }, make("h3", {}, `POST /api/${name}`), make("pre", { tabIndex: 0 }, command));
  });
}

async function start() {
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
    byId("pair-hint").textContent = "The probability that the texts are in this order and not reversed, as learned in pre-training.";
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

start();
