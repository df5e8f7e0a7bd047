"use strict";
// A design is {base | text, set}; all that is shown follows from it, and it stands in the address.
const $ = (id) => document.getElementById(id);
const GROUPS = { design: "Design", machine: "Machine", plan: "Plan", life: "Failures, money, place" };
let design = { ...START, set: {} };
let pins = [];      // {name, design, figures}
let origin = {};    // key -> words of the design without changes
let shown = null;   // the last answer
let asking = null;  // the request under way

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null));
  return node;
}

// --- the address --------------------------------------------------------------------------------

function encode(state) {
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

function decode(text) {
  const bytes = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(bytes, (letter) => letter.charCodeAt(0))));
}

function remember() {
  const state = { ...design, pins: pins.map((pin) => ({ name: pin.name, design: pin.design })) };
  history.replaceState(null, "", "#" + encode(state));
}

function recall() {
  if (location.hash.length < 2) return;
  try {
    const { pins: kept = [], ...found } = decode(location.hash.slice(1));
    design = { set: {}, ...found };
    pins = kept.map((pin) => ({ ...pin, figures: null }));
  } catch {
    tellProblems(["the address does not hold a design; this is the first one"]);
  }
}

// --- asking -------------------------------------------------------------------------------------

async function post(path, question, signal) {
  const head = { "Content-Type": "application/json" };
  return fetch(path, { method: "POST", headers: head, body: JSON.stringify(question), signal });
}

async function ask(question, signal) {
  const reply = await post("answer", question, signal);
  return reply.json();
}

async function refresh() {
  asking?.abort();
  const mine = (asking = new AbortController());
  remember();
  document.body.dataset.busy = "yes";
  $("results").classList.add("busy");
  const clock = wait(mine);
  let reply;
  try {
    reply = await ask(design, mine.signal);
  } catch (error) {
    if (error.name === "AbortError") {
      if (mine === asking) rest("yes");
      return;
    }
    reply = { problems: ["the server does not answer; is clustersim explore still running?"] };
  }
  finally {
    clearInterval(clock);
  }
  if (mine !== asking || reply.cancelled) return;
  if (reply.done) show(reply.done);
  tellProblems(reply.problems ?? []);
  rest(reply.done ? "" : "yes");
}

function wait(mine) {
  const began = Date.now();
  return setInterval(() => {
    if (mine !== asking) return;
    const seconds = Math.round((Date.now() - began) / 1000);
    $("waiting").hidden = seconds < 1;
    $("waited").textContent = `simulating since ${seconds} s; some designs have no two ranks alike`;
  }, 500);
}

function rest(stale) {
  $("results").classList.toggle("stale", Boolean(stale));
  $("results").classList.remove("busy");
  $("waiting").hidden = true;
  document.body.dataset.busy = "no";
  document.body.dataset.ready = "yes";
}

async function begin() {
  origin = {};
  const reply = await ask({ ...design, set: {} }).catch(() => ({}));
  for (const control of reply.done?.controls ?? []) origin[control.key] = control.words[control.at];
  await refresh();
  for (const pin of pins.filter((each) => !each.figures)) {
    pin.figures = (await ask(pin.design).catch(() => ({}))).done?.figures ?? [];
  }
  drawPins();
}

// --- controls -----------------------------------------------------------------------------------

function change(key, value, words) {
  const changes = { ...design.set };
  for (const other of Object.keys(changes)) {
    if (other === key || other.startsWith(key + ".") || (key === "cluster" && other === "nodes")) delete changes[other];
  }
  if (words !== origin[key]) changes[key] = value;
  design = { ...design, set: changes };
  refresh();
}

function controlOf(control) {
  const id = "c-" + control.key.replaceAll(".", "-");
  let input;
  const output = make("output", { htmlFor: id });
  if (control.looks === "choice") {
    input = make("select", { id });
    input.onchange = () => change(control.key, JSON.parse(input.value), input.selectedOptions[0].textContent);
  } else if (control.looks === "number") {
    input = make("input", { id, type: "number", min: 0, step: 1, inputMode: "numeric" });
    input.onchange = () => change(control.key, Number(input.value), input.value);
  } else {
    input = make("input", { id, type: "range", min: 0, step: 1 });
    input.oninput = () => {
      const at = Number(input.value);
      tellSlider(input, output, input.control.words[at]);
      change(control.key, input.control.values[at], input.control.words[at]);
    };
  }
  const label = make("label", { htmlFor: id, textContent: control.label, title: control.key });
  return make("div", { className: "control", id: id + "-row" }, label, input, control.looks === "slider" ? output : null);
}

function tellSlider(input, output, words) {
  output.textContent = words;
  input.setAttribute("aria-valuetext", words);
}

function drawControls(controls) {
  const form = $("controls");
  const keys = controls.map((control) => control.key).join();
  if (form.dataset.keys !== keys) {
    const focused = document.activeElement?.id;
    form.replaceChildren(
      ...Object.entries(GROUPS).map(([group, title]) => {
        const inside = controls.filter((control) => control.group === group).map(controlOf);
        return make("fieldset", {}, make("legend", { textContent: title }), ...inside);
      }),
    );
    form.dataset.keys = keys;
    if (focused) $(focused)?.focus();
  }
  for (const control of controls) setControl(control);
}

function setControl(control) {
  const id = "c-" + control.key.replaceAll(".", "-");
  const input = $(id);
  input.control = control;
  if (control.looks === "choice") {
    const options = control.values.map((value, index) => [JSON.stringify(value), control.words[index] || "none"]);
    if (input.dataset.options !== JSON.stringify(options)) {
      input.replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text })));
      input.dataset.options = JSON.stringify(options);
    }
    input.value = JSON.stringify(control.values[control.at]);
  } else if (control.looks === "number") {
    if (document.activeElement !== input) input.value = control.values[0];
  } else {
    input.max = control.values.length - 1;
    input.value = control.at;
    tellSlider(input, input.nextElementSibling, control.words[control.at]);
  }
  $(id + "-row").classList.toggle("changed", control.words[control.at] !== origin[control.key]);
}

// --- results ------------------------------------------------------------------------------------

function show(answer) {
  shown = answer;
  document.title = answer.name + " – clustersim";
  $("name").textContent = answer.name;
  $("sentence").textContent = answer.sentence;
  $("figures").replaceChildren(
    ...answer.figures.map((figure) =>
      make("div", { className: "card", title: figure.key },
        make("span", { textContent: figure.name }), make("b", { textContent: figure.told })),
    ),
  );
  const brief = answer.figures.filter((figure) => ["step time", "time to train", "cost"].includes(figure.name));
  $("brief").textContent = [...brief.map((figure) => figure.told), answer.memory.verdict].join("  ·  ");
  drawBars("breakdown", answer.breakdown);
  drawBars("memory", answer.memory.parts, answer.memory.share);
  drawBars("energy", answer.energy);
  $("energy-title").hidden = !answer.energy.length;
  $("verdict").textContent = `${answer.memory.verdict.toUpperCase()}: ${answer.memory.told}`;
  $("verdict").className = answer.memory.fits ? "" : "bad";
  const told = [...answer.why, ...(answer.idle ? ["IDLE: " + answer.idle] : []), ...answer.notes];
  $("notes").replaceChildren(...told.map((text) => make("li", { textContent: text })));
  $("yaml").textContent = answer.yaml;
  drawControls(answer.controls);
  drawPins();
}

function drawBars(place, parts, scale = 1) {
  $(place).replaceChildren(
    ...parts.flatMap((part) => {
      const fill = make("i");
      fill.style.width = `${100 * Math.min(1, part.share * scale)}%`;
      const share = (100 * part.share).toFixed(1) + " %";
      const bar = make("span", { className: "bar", title: share }, fill);
      return [make("span", { textContent: part.name }), bar, make("b", { textContent: `${part.told}  ${share}` })];
    }),
  );
}

function tellProblems(problems) {
  $("problems").hidden = !problems.length;
  const list = make("ul", {}, ...problems.map((text) => make("li", { textContent: text })));
  $("problems").replaceChildren(make("b", { textContent: "This design cannot be simulated" }), list);
}

// --- plans --------------------------------------------------------------------------------------

async function search() {
  $("search").disabled = true;
  $("stop").hidden = $("progress").hidden = false;
  $("searching").textContent = "starting";
  try {
    await follow((await post("plan", design)).body.getReader());
  } catch {
    $("searching").textContent = "the server does not answer";
  }
  $("search").disabled = false;
  $("stop").hidden = $("progress").hidden = true;
}

async function follow(reader) {
  const letters = new TextDecoder();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (held + letters.decode(value, { stream: true })).split("\n");
    held = lines.pop();
    lines.filter(Boolean).forEach((line) => searched(JSON.parse(line)));
  }
}

function searched(reply) {
  if ("progress" in reply) {
    $("progress").value = reply.progress;
    $("searching").textContent = reply.what;
  } else if (reply.problems) {
    $("searching").textContent = reply.problems.join("; ");
  } else if (reply.cancelled) {
    $("searching").textContent = "stopped before any plan was found";
  } else {
    const { plans, enumerated, simulated, complete, wall_s: seconds } = reply.done;
    const state = complete ? "" : "stopped; the best so far of ";
    $("searching").textContent =
      `${state}${enumerated.toLocaleString("en")} plans in ${seconds.toFixed(1)} s, ${simulated} simulated`;
    drawPlans(plans);
  }
}

function drawPlans(plans) {
  const keys = [...new Set(plans.flatMap((plan) => Object.keys(plan.set)))].filter(
    (key) => new Set(plans.map((plan) => JSON.stringify(plan.set[key]))).size > 1 || key === "parallelism.tensor",
  );
  const names = keys.map((key) => make("th", { textContent: key.split(".").pop().replaceAll("_", " "), title: key }));
  const head = make("tr", {}, ...["step", "MFU", "memory"].map((textContent) => make("th", { textContent })), ...names, make("th"));
  const rows = plans.map((plan) => {
    const use = make("button", { type: "button", textContent: "Use" });
    use.onclick = () => {
      design = { ...design, set: { ...design.set, ...plan.set } };
      refresh();
    };
    const told = [plan.step, plan.mfu, plan.memory, ...keys.map((key) => String(plan.set[key] ?? ""))];
    return make("tr", {}, ...told.map((textContent) => make("td", { textContent, className: "n" })), make("td", {}, use));
  });
  $("plans").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  $("plans").hidden = !plans.length;
}

// --- pins ---------------------------------------------------------------------------------------

function pin() {
  if (!shown) return;
  const name = $("pin-name").value.trim() || `design ${pins.length + 1}`;
  pins.push({ name, design: structuredClone(design), figures: shown.figures });
  $("pin-name").value = "";
  remember();
  drawPins();
}

function changesOf(one) {
  const words = Object.entries(one.set).filter(([key]) => key !== "measured");
  const told = words.map(([key, value]) => `${key.split(".").pop()} ${typeof value === "object" ? "…" : value}`);
  return told.join(", ") || "no change";
}

function drawPins() {
  $("pins").hidden = !pins.length;
  if (!pins.length || !shown) return;
  const rows = [{ name: "now", design, figures: shown.figures, now: true }, ...pins];
  const columns = [...new Map(rows.flatMap((row) => (row.figures ?? []).map((figure) => [figure.name, figure]))).keys()];
  const head = make("tr", {}, ...["design", ...columns, "what differs", ""].map((textContent) => make("th", { textContent })));
  const body = rows.map((row) => {
    const cells = columns.map((name) => cellOf(find(row, name), row.now ? null : find(rows[0], name)));
    const what = `${row.design.base ?? "opened file"}: ${changesOf(row.design)}`;
    const drop = make("button", { type: "button", textContent: "Remove" });
    drop.onclick = () => {
      pins = pins.filter((each) => each !== row);
      remember();
      drawPins();
    };
    const load = make("button", { type: "button", textContent: "Show" });
    load.onclick = () => {
      design = structuredClone(row.design);
      begin();
    };
    const last = row.now ? make("td") : make("td", {}, load, " ", drop);
    return make("tr", { className: row.now ? "now" : "" }, make("td", { textContent: row.name }), ...cells, make("td", { textContent: what }), last);
  });
  $("pins").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
}

function find(row, name) {
  return (row.figures ?? []).find((figure) => figure.name === name);
}

function cellOf(figure, against) {
  const cell = make("td", { className: "n", textContent: figure?.told ?? "" });
  if (figure?.value && against?.value && figure.better) {
    const ratio = figure.value / against.value - 1;
    if (Math.abs(ratio) > 5e-4) {
      const good = ratio * figure.better > 0 ? "better" : "worse";
      cell.append(" ", make("small", { className: good, textContent: `${ratio > 0 ? "+" : ""}${(100 * ratio).toFixed(1)} %` }));
    }
  }
  return cell;
}

// --- the file -----------------------------------------------------------------------------------

async function copy(text, place) {
  try {
    await navigator.clipboard.writeText(text);
    place.textContent = "copied";
  } catch {
    place.textContent = "this browser does not let pages copy; select it by hand";
  }
}

$("controls").onsubmit = (event) => event.preventDefault();
$("search").onclick = search;
$("give-up").onclick = () => asking?.abort();
$("stop").onclick = () => post("cancel", {});
$("pin").onclick = pin;
$("share").onclick = () => copy(location.href, $("shared"));
$("copy").onclick = () => copy($("yaml").textContent, $("shared"));
$("reset").onclick = () => {
  design = { ...design, set: {} };
  refresh();
};
$("open").onchange = async () => {
  const [file] = $("open").files;
  if (!file) return;
  design = { text: await file.text(), set: {} };
  $("open").value = "";
  begin();
};
window.onhashchange = () => {
  recall();
  begin();
};
recall();
begin();
