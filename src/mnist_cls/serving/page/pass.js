// One network's forward pass: what it saw, its answer, and a picture of each operation.

import { make } from "./dom.js";
import { meaning } from "./operations.js";
import { Sheet } from "./sheet.js";
import { colour, grey, number, percent } from "./values.js";

export class Pass {
  /** `onUnit(pass, operation, index, isKept)` is called when a value is selected. */
  constructor(onUnit) {
    this.onUnit = onUnit;
    this.title = make("h3");
    this.seen = make("div", { class: "seen" });
    this.list = make("ol");
    this.element = make("div", { class: "pass" }, this.title, this.seen, this.list);
    this.operations = [];
    this.kind = "";
    this.image = new Picture("what the network saw, 28 × 28", "What the network saw", grey);
    this.saliency = new Picture("saliency: which pixels matter", "Saliency: how much the answer depends on each pixel");
    new ResizeObserver(() => this.repaint()).observe(this.element);
    addEventListener("beforeprint", () => {
      for (const { sheet } of this.operations) sheet.fill(); // also those out of sight
    });
  }

  /** Show the server's answer. */
  show(answer) {
    this.network = answer.network;
    this.title.textContent = answer.network;
    const kind = JSON.stringify(answer.operations.map(({ operation, layer, values }) => [operation, layer, values.shape]));
    if (kind !== this.kind) this.build(answer);
    this.kind = kind;
    answer.operations.forEach((operation, place) => {
      this.operations[place].values = operation.values;
      this.operations[place].range.textContent = range(operation.values);
    });
    this.image.show(answer.image);
    if (answer.saliency) this.saliency.show(answer.saliency);
    for (const [name, head] of Object.entries(answer.heads)) this.heads[name].show(head);
    this.repaint();
  }

  clear() {
    this.kind = "";
    this.operations = [];
    this.title.textContent = "";
    this.list.replaceChildren();
    this.seen.replaceChildren();
  }

  build({ operations, heads }) {
    this.heads = Object.fromEntries(Object.keys(heads).map((name) => [name, new Probabilities()]));
    const lists = Object.values(this.heads).map(({ element }) => element);
    this.saliency.figure.hidden = !lists.length; // saliency needs an answer
    this.seen.replaceChildren(this.image.figure, this.saliency.figure, ...lists);
    this.operations = operations.map((operation) => {
      const { step, layer, values, inputs } = operation;
      const name = `${step}. ${operation.operation}${layer ? ` ${layer}` : ""}`;
      const sheet = new Sheet(`${name}: values of shape ${values.shape.join(" x ")}`, (index, isKept) =>
        this.onUnit(this, operation, index, isKept),
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
      const hint = meaning(operation.operation);
      if (hint) line.append(make("br"), make("span", { class: "meaning", text: hint }));
      return { ...operation, sheet, range: rangeText, line };
    });
    this.list.replaceChildren(
      ...this.operations.map(({ line, sheet, values }) => {
        const isSmall = values.shape.slice(0, -2).every((size) => size === 1) && values.shape.at(-1) <= 28;
        return make("li", { class: isSmall ? "operation small" : "operation" }, line, sheet.element);
      }),
    );
  }

  repaint() {
    const room = this.element.clientWidth;
    for (const { sheet, values } of this.operations) if (room) sheet.paint(values, room);
  }

  unmark() {
    for (const { sheet } of this.operations) sheet.unmark();
  }
}

/** All values if there are few; otherwise the smallest and the largest. */
function range({ data }) {
  if (data.length === 1) return number(data[0]);
  if (data.length <= 16) return [...data].map((value, place) => `${place}: ${number(+value.toPrecision(3))}`).join(", ");
  let [least, most] = [Infinity, -Infinity];
  for (const value of data) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return data.length ? `${number(least)} to ${number(most)}` : "no values";
}

/** A 28 × 28 picture with four pixels per value. Its values cannot be selected. */
class Picture {
  constructor(caption, label, colours = colour) {
    this.colours = colours;
    this.sheet = new Sheet(label, () => {});
    this.sheet.canvas.setAttribute("role", "img");
    this.sheet.canvas.removeAttribute("tabindex");
    this.figure = make("figure", {}, this.sheet.element, make("figcaption", { text: caption }));
  }

  show({ shape, data }) {
    const [height, width] = shape.slice(-2);
    this.sheet.paint({ shape: [1, height, width], data }, 1, this.colours);
    for (const canvas of [this.sheet.canvas, this.sheet.marks]) canvas.style.width = canvas.style.height = "112px";
  }
}

/** A bar and a number for each digit. */
class Probabilities {
  constructor() {
    this.rows = Array.from({ length: 10 }, (_, digit) => ({
      digit: make("dt", { text: digit }),
      bar: make("span", { class: "bar" }),
      number: make("dd"),
    }));
    const cells = this.rows.flatMap(({ digit, bar, number: cell }) => [
      digit,
      make("dd", { "aria-hidden": "true" }, bar),
      cell,
    ]);
    this.element = make("dl", { class: "probabilities", "aria-label": "Probability of each digit" }, ...cells);
  }

  show({ logits, probabilities }) {
    const [values, fractions] = [logits.data, probabilities.data];
    const largest = Math.max(...fractions);
    this.rows.forEach(({ digit, bar, number: cell }, place) => {
      for (const element of [digit, cell]) element.classList.toggle("best", fractions[place] === largest);
      bar.style.width = `${(100 * fractions[place]) / largest}%`;
      cell.textContent = percent(fractions[place]);
      cell.title = `logit ${number(values[place])}`;
    });
  }
}
