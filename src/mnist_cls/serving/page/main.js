// The page: from a drawing to the answer, and to every value that was computed for it.

import { find, make } from "./dom.js";
import { Drawing } from "./drawing.js";
import { Pass } from "./pass.js";
import { ask, latest, networks } from "./server.js";
import { hideUnit, showUnit } from "./unit.js";
import { percent } from "./values.js";

// The drawing of the Example button, as returned by `toText`.
const EXAMPLE = "TlCCPrI83UTZZK1_foB-gLiE5ZflwMjkjud16P8";
// Milliseconds that an answer must stay the same before screen readers announce it.
const QUIET = 700;

const inputs = { network: find("network"), other: find("other"), early: find("early"), split: find("split") };
const passes = [new Pass(choose), new Pass(choose)];
find("passes").append(passes[0].element);

let isDrawing = false; // within a stroke
const drawing = new Drawing(find("drawing"), (isFinished) => {
  isDrawing = !isFinished;
  if (isFinished) remember();
  chosenDigit = 0;
  refresh();
});
let isWarm = false; // whether the server has answered before
let chosenDigit = 0; // position of the digit in a row
let image = null; // from which the forward pass on the screen was computed
let unit = null; // the value that is explained: {pass, operation, index, isKept}

const refresh = latest(async () => {
  const start = performance.now();
  // The server loads PyTorch for the first drawing.
  const slow = isWarm || setTimeout(() => say("…", "the first drawing takes a few seconds"), 500);
  try {
    await frame();
    isWarm = true;
    find("time").textContent = `computed in ${Math.round(performance.now() - start)} ms`;
    find("time").dataset.ms = performance.now() - start;
  } catch (error) {
    say(drawing.isEmpty ? "no digit" : "–", drawing.isEmpty ? "" : onPage(error.message));
    clearPasses();
  } finally {
    clearTimeout(slow);
  }
});

/** One frame: request the digits and the forward passes of the picture, and show them. */
async function frame() {
  if (drawing.isEmpty) {
    showDigits(null);
    throw new Error("the paper is empty");
  }
  image = await drawing.image();
  if (inputs.split.checked) {
    const [row] = (await ask("/predict", { split: true }, image)).predictions;
    showDigits(row);
    if (row.error) throw new Error(row.error);
    const box = row.boxes[Math.min(chosenDigit, row.boxes.length - 1)];
    say(row.reading, `confidence ${percent(row.confidence)} for all digits together`);
    image = (await drawing.image(box)) ?? image;
  } else showDigits(null);
  const names = [inputs.network.value, inputs.other.value].filter(Boolean);
  // Saliency takes another forward pass and a backward pass: too long for each point of a stroke.
  const wished = { early_exit: inputs.early.checked, saliency: !isDrawing, binary: true };
  const answers = await Promise.all(names.map((network) => ask("/forward", { network, ...wished }, image)));
  arrange(names.length);
  find("empty").hidden = true;
  answers.forEach((answer, place) => passes[place].show(answer));
  find("early-label").hidden = !answers.some((answer) => answer.has_early_exit);
  if (!inputs.split.checked) sayAnswer(answers[0]);
  if (unit) explain(unit);
}

function sayAnswer({ heads, network }) {
  const [head] = Object.values(heads);
  if (!head) return say("–", `${network} does not classify digits; its values are shown all the same`);
  const probabilities = [...head.probabilities.data];
  const confidence = Math.max(...probabilities);
  say(String(probabilities.indexOf(confidence)), `confidence ${percent(confidence)}`);
}

/** A reason of the server's, with the page's checkbox instead of the setting of the command line. */
const onPage = (reason) => reason.replace(/split=true of predict reads (rows|it)/, "tick “several digits”");

let speaking = 0;
function say(answer, detail) {
  find("answer").textContent = answer;
  find("detail").textContent = detail;
  clearTimeout(speaking);
  speaking = setTimeout(() => (find("spoken").textContent = [answer, detail].filter(Boolean).join(", ")), QUIET);
}

/** Outline the digits of a row, and offer them as buttons; null for a single digit. */
function showDigits(row) {
  const canvas = find("boxes");
  canvas.width = drawing.canvas.width;
  const boxes = row?.boxes ?? [];
  const context = canvas.getContext("2d");
  context.strokeStyle = getComputedStyle(canvas).getPropertyValue("--accent");
  boxes.forEach((box, place) => {
    const edges = drawing.onCanvas(box);
    if (!edges) return;
    const [left, top, right, bottom] = edges;
    context.lineWidth = place === chosenDigit ? 6 : 2;
    context.strokeRect(left, top, right - left, bottom - top);
  });
  const buttons = [...(row?.reading ?? "")].map((digit, place) => {
    const pressed = String(place === chosenDigit);
    const button = make("button", { type: "button", "aria-pressed": pressed, text: digit });
    button.addEventListener("click", () => {
      chosenDigit = place;
      refresh();
    });
    return button;
  });
  const hadFocus = find("digits").contains(document.activeElement);
  find("digits").replaceChildren(...buttons);
  find("digits").hidden = !buttons.length;
  if (hadFocus) buttons[chosenDigit]?.focus();
}

/** Show the first passes. Elements on the page are kept, because a new layout takes longer than a frame. */
function arrange(count) {
  const shown = passes.slice(0, count).map(({ element }) => element);
  if (find("passes").childElementCount !== count) find("passes").replaceChildren(...shown);
}

function clearPasses() {
  find("empty").hidden = !drawing.isEmpty;
  image = null;
  if (!unit?.isKept) unit = null;
  hideUnit();
  for (const pass of passes) pass.clear();
}

/** Explain a value. One that was clicked, or reached with the keyboard, is kept until another one is, or Escape. */
function choose(pass, operation, index, isKept) {
  if (unit?.isKept && !isKept) return;
  unit = { pass, operation, index, isKept };
  explain(unit);
}

function release() {
  unit = null;
  for (const pass of passes) pass.unmark();
  hideUnit();
}

const explain = latest(async ({ pass, operation, index }) => {
  if (!image) return;
  const { step } = operation;
  const wished = { network: pass.network, early_exit: inputs.early.checked, step, unit: index.join(","), binary: true };
  try {
    const answer = (await ask("/forward", wished, image)).unit;
    for (const one of passes) one.unmark();
    if (unit === null) return;
    const { sheet, inputs: sources, values } = pass.operations[step - 1];
    const flat = index.reduce((all, position, axis) => all * values.shape[axis] + position, 0);
    sheet.markValue(flat);
    const [height, width] = answer.inputs.shape.slice(-2);
    if (answer.origin.length && sources[0]) pass.operations[sources[0] - 1].sheet.markPart(...answer.origin, height, width);
    showUnit(operation, index, answer, pass.network);
    find("unit-kept").hidden = !unit.isKept;
  } catch {
    hideUnit(); // the picture has changed, and the new pass has no such value
  }
});

// The page's address keeps the drawing and the options, so that it can be shared as a link.

function remember() {
  const link = new URLSearchParams();
  if (drawing.strokes.length) link.set("d", drawing.toText());
  if (inputs.network.selectedIndex > 0) link.set("network", inputs.network.value);
  if (inputs.other.value) link.set("other", inputs.other.value);
  for (const name of ["early", "split"]) if (inputs[name].checked) link.set(name, "1");
  history.replaceState(null, "", `#${link}`);
}

function recall() {
  const link = new URLSearchParams(location.hash.slice(1));
  for (const name of ["early", "split"]) inputs[name].checked = link.has(name);
  for (const name of ["network", "other"]) {
    const wished = link.get(name);
    if ([...inputs[name].options].some(({ value }) => value === wished)) inputs[name].value = wished;
  }
  widen();
  drawing.fromText(link.get("d") ?? "");
}

function widen() {
  drawing.isWide = inputs.split.checked;
  document.querySelector("main").classList.toggle("wide", inputs.split.checked);
}

find("undo").addEventListener("click", () => drawing.undo());
find("clear").addEventListener("click", () => drawing.clear());
find("example").addEventListener("click", () => drawing.fromText(EXAMPLE));
find("unit-close").addEventListener("click", release);
addEventListener("keydown", ({ key }) => key === "Escape" && release());
find("photo").addEventListener("change", (event) => {
  if (event.target.files.length) drawing.take(event.target.files[0]);
  event.target.value = "";
});
for (const input of Object.values(inputs)) {
  input.addEventListener("change", () => {
    unit = null;
    hideUnit();
    if (input === inputs.split) widen();
    remember();
    refresh();
  });
}
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (file) drawing.take(file);
});
for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    find("paper").classList.toggle("dropping", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) drawing.take(event.dataTransfer.files[0]);
  });
}
addEventListener("hashchange", recall);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => refresh());

const names = await networks().catch(() => []);
if (!names.length) say("–", "the server does not respond; reload the page");
inputs.network.append(...names.map((name) => make("option", { value: name, text: name })));
inputs.other.append(...names.map((name) => make("option", { value: name, text: name })));
recall();
