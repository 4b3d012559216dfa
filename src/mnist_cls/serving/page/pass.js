// One network's forward pass: what it saw, its answer, and a picture of each operation.

import { make } from "./dom.js";
import { Sheet } from "./sheet.js";
import { colour, grey, magnitude, number, tensor } from "./values.js";

export class Pass {
  /** `onUnit(pass, operation, index, byKeyboard)` is called when a value is pointed at. */
  constructor(onUnit) {
    this.onUnit = onUnit;
    this.title = make("h3");
    this.seen = make("div", { class: "seen" });
    this.list = make("ol");
    this.element = make("div", { class: "pass" }, this.title, this.seen, this.list);
    this.operations = [];
    this.kind = "";
    new ResizeObserver(() => this.repaint()).observe(this.element);
  }

  /** Show an answer of the server's. */
  show(answer) {
    this.network = answer.network;
    this.title.textContent = answer.network;
    const kind = JSON.stringify(answer.operations.map(({ operation, layer, values }) => [operation, layer, values.shape]));
    if (kind !== this.kind) this.build(answer);
    this.kind = kind;
    answer.operations.forEach((operation, place) => {
      const values = tensor(operation.values);
      this.operations[place].tensor = values;
      this.operations[place].range.textContent = range(values);
    });
    this.image = tensor(answer.image);
    this.saliency = answer.saliency && tensor(answer.saliency);
    this.showSeen(answer);
    this.repaint();
  }

  clear() {
    this.kind = "";
    this.operations = [];
    this.title.textContent = "";
    this.list.replaceChildren();
    this.seen.replaceChildren();
  }

  build({ operations }) {
    this.operations = operations.map((operation) => {
      const { step, layer, values, inputs } = operation;
      const name = `${step}. ${operation.operation}${layer ? ` ${layer}` : ""}`;
      const sheet = new Sheet(`${name}: values of the shape ${values.shape.join(" x ")}`, (index, byKeyboard) =>
        this.onUnit(this, operation, index, byKeyboard),
      );
      const from = inputs.map((input) => (input === 0 ? "the image" : input === null ? "a constant" : `step ${input}`));
      const facts = [
        values.shape.join(" × ") || "one value",
        from.length && `from ${from.join(", ")}`,
        operation.parameters && `${operation.parameters.toLocaleString("en")} parameters`,
        operation.flops && `${operation.flops.toLocaleString("en")} FLOPs`,
        operation.code,
      ];
      const rangeText = make("span");
      const line = make(
        "p",
        {},
        make("span", { class: "name", text: name }),
        ` · ${facts.filter(Boolean).join(" · ")} · `,
        rangeText,
      );
      return { ...operation, sheet, range: rangeText, line };
    });
    this.list.replaceChildren(
      ...this.operations.map(({ line, sheet, values }) => {
        const isSmall = values.shape.slice(0, -2).every((size) => size === 1) && values.shape.at(-1) <= 28;
        return make("li", { class: isSmall ? "operation small" : "operation" }, line, sheet.element);
      }),
    );
  }

  showSeen({ heads }) {
    const figure = (caption, canvas) => make("figure", {}, canvas, make("figcaption", { text: caption }));
    const figures = [figure("what the network saw, 28 × 28", picture(this.image, 4, "What the network saw", grey))];
    if (this.saliency) {
      const canvas = picture(this.saliency, 4, "Saliency: how much the answer depends on each pixel");
      figures.push(figure("saliency: which pixels count", canvas));
    }
    for (const { logits, probabilities } of Object.values(heads)) {
      figures.push(probabilityList(tensor(logits).data, tensor(probabilities).data));
    }
    this.seen.replaceChildren(...figures);
  }

  repaint() {
    const room = this.element.clientWidth;
    for (const { sheet, tensor: values } of this.operations) if (values && room) sheet.paint(values, room);
  }

  unmark() {
    for (const { sheet } of this.operations) sheet.unmark();
  }
}

function range({ data }) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of data) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return data.length ? `${number(least)} to ${number(most)}` : "no values";
}

/** Paint a map without pointing at its values. */
function picture(values, scale, label, colours = colour) {
  const sheet = new Sheet(label, () => {});
  const [height, width] = values.shape.slice(-2);
  sheet.paint({ shape: [1, height, width], data: values.data }, 28 * scale, colours);
  sheet.canvas.setAttribute("role", "img");
  sheet.canvas.removeAttribute("tabindex");
  sheet.canvas.style.width = sheet.canvas.style.height = `${28 * scale}px`;
  return sheet.canvas;
}

function probabilityList(logits, probabilities) {
  const best = probabilities.indexOf(Math.max(...probabilities));
  const largest = magnitude(probabilities);
  const rows = [...probabilities].flatMap((probability, digit) => {
    const kind = digit === best ? { class: "best" } : {};
    const bar = make("span", { class: "bar" });
    bar.style.width = `${(100 * probability) / largest}%`;
    return [
      make("dt", { ...kind, text: digit }),
      make("dd", { class: "track", "aria-hidden": "true" }, bar),
      make("dd", { ...kind, title: `logit ${number(logits[digit])}`, text: `${(100 * probability).toFixed(2)} %` }),
    ];
  });
  return make("dl", { class: "probabilities", "aria-label": "Probability of each digit" }, ...rows);
}
