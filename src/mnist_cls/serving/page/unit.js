// How one value was computed, such as from a patch, a kernel and a bias: the products and their sum.

import { find, make } from "./dom.js";
import { cellColours, magnitude, number } from "./values.js";

const TERMS = 10; // shown of a linear layer's sum
const CHANNELS = 4; // of a convolution's input, shown with all their numbers

/** Show the server's explanation of a value. */
export function showUnit(operation, index, unit, network) {
  const name = operation.layer || operation.operation;
  find("unit-title").textContent = `${network}: ${name} [${index.join(", ")}] = ${number(unit.value)}`;
  find("unit-place").textContent = place(index);
  const { inputs } = unit;
  const body = {
    "sum of products": () => (inputs.shape.length === 3 ? convolution(unit, inputs) : linear(unit, inputs)),
    max: () => [table("the largest of", inputs.shape, inputs.data, inputs.data.indexOf(Math.max(...inputs.data)))],
    mean: () => [table("the mean of", inputs.shape, inputs.data)],
    "batch norm": () => batchNorm(unit, inputs),
    softmax: () => softmax(unit, inputs, index.at(-1)),
    argmax: () => [line(`the position of the largest of ${[...inputs.data].map(number).join(", ")}`)],
    scalar: () => [line(scalar(unit, inputs.data[0]))],
    values: () => [line(`${operation.operation}(${[...inputs.data].map(number).join(", ")}) = ${number(unit.value)}`)],
    unknown: () => [line("This page cannot explain the values of this operation.")],
  }[unit.kind]();
  find("unit-body").replaceChildren(...body);
  find("unit").hidden = false;
}

export function hideUnit() {
  find("unit").hidden = true;
}

const line = (text) => make("p", { text });

/** An index in words. */
function place(index) {
  const names = { 4: ["image", "channel", "row", "column"], 3: ["channel", "row", "column"], 2: ["image", "value"] };
  return (names[index.length] ?? []).map((name, axis) => `${name} ${index[axis]}`).join(", ");
}

/** A sum of numbers, each with its name, as text. */
const sumOf = (terms) =>
  terms
    .map(([value, name], position) => {
      const sign = value < 0 ? "−" : "+";
      return `${position ? ` ${sign} ` : value < 0 ? "−" : ""}${number(Math.abs(value))} (${name})`;
    })
    .join("");

function table(caption, shape, data, chosen = -1) {
  const [height, width] = shape.slice(-2);
  const largest = magnitude(data);
  const rows = Array.from({ length: height }, (_, y) => {
    const cells = Array.from({ length: width }, (_, x) => {
      const value = data[y * width + x];
      const isOutside = value === -Infinity; // padding of a max pooling
      const kind = y * width + x === chosen ? { class: "chosen" } : {};
      const cell = make("td", { ...kind, text: isOutside ? "" : number(+value.toPrecision(3)) });
      if (!isOutside) {
        const { background, text } = cellColours(value, largest);
        cell.style.background = background;
        cell.style.color = text;
      }
      return cell;
    });
    return make("tr", {}, ...cells);
  });
  return make("table", {}, make("caption", { text: caption }), make("tbody", {}, ...rows));
}


function convolution(unit, inputs) {
  const { weights } = unit;
  const products = inputs.data.map((value, place) => value * weights.data[place]);
  const [channels, height, width] = inputs.shape;
  const size = height * width;
  const part = (data, channel) => data.subarray(channel * size, (channel + 1) * size);
  const sums = Array.from({ length: channels }, (_, channel) => part(products, channel).reduce((a, b) => a + b, 0));
  const order = sums.map((_, channel) => channel).sort((a, b) => Math.abs(sums[b]) - Math.abs(sums[a]));
  const shown = order.slice(0, CHANNELS);
  const shape = [height, width];
  const blocks = shown.map((channel) =>
    make(
      "div",
      { class: "terms" },
      table(channels > 1 ? `patch, channel ${channel}` : "patch", shape, part(inputs.data, channel)),
      "×",
      table("kernel", shape, part(weights.data, channel)),
      "=",
      table("products, cell by cell", shape, part(products, channel)),
      make("span", { text: `sum ${number(sums[channel])}` }),
    ),
  );
  const rest = order.slice(CHANNELS).reduce((total, channel) => total + sums[channel], 0);
  const others = channels > CHANNELS ? [[rest, `${channels - CHANNELS} other channels together`]] : [];
  return [total(unit, [...shown.map((channel) => [sums[channel], `channel ${channel}`]), ...others]), ...blocks];
}

function linear(unit, inputs) {
  const { weights } = unit;
  const products = inputs.data.map((value, place) => value * weights.data[place]);
  const order = [...products.keys()].sort((a, b) => Math.abs(products[b]) - Math.abs(products[a]));
  const shown = order.slice(0, TERMS);
  const rest = order.slice(TERMS).reduce((sum, place) => sum + products[place], 0);
  const cells = (place) => [place, inputs.data[place], weights.data[place], products[place]];
  const rows = shown.map((place) => {
    const largest = Math.abs(products[shown[0]]) || 1;
    const { background, text } = cellColours(products[place], largest);
    const row = make("tr", {}, ...cells(place).map((value) => make("td", { text: number(+value.toPrecision(4)) })));
    row.lastChild.style.background = background;
    row.lastChild.style.color = text;
    return row;
  });
  const heads = ["input", "value", "weight", "product"].map((text) => make("th", { scope: "col", text }));
  const largestTerms = make(
    "table",
    {},
    make("caption", { text: `the ${shown.length} largest of ${products.length.toLocaleString("en")} terms` }),
    make("thead", {}, make("tr", {}, ...heads)),
    make("tbody", {}, ...rows),
  );
  const sum = shown.reduce((all, place) => all + products[place], 0);
  const others = order.length > TERMS ? [[rest, `${(order.length - TERMS).toLocaleString("en")} other terms together`]] : [];
  return [total(unit, [[sum, `${shown.length} largest terms`], ...others]), largestTerms];
}

/** One line with the whole sum: each part with its name, the bias, and the result. */
function total(unit, parts) {
  const sum = parts.reduce((all, [value]) => all + value, unit.bias);
  return make("p", { class: "sum", "data-sum": sum, "data-value": unit.value, text: `${sumOf([...parts, [unit.bias, "bias"]])} = ${number(sum)}` });
}

/** A value and a number that is the same for all values. */
function scalar({ constants, value }, input) {
  const { factor, addend } = constants;
  const term = addend < 0 ? `− ${number(-addend)}` : `+ ${number(addend)}`;
  return `${number(input)} ${factor === undefined ? term : `× ${number(factor)}`} = ${number(value)}`;
}

function batchNorm(unit, inputs) {
  const { mean, variance, weight, bias, eps } = unit.constants;
  const formula = `(${number(inputs.data[0])} − mean ${number(mean)}) / √(variance ${number(variance)} + ${number(eps)})`;
  return [line(`${formula} × weight ${number(weight)} + bias ${number(bias)} = ${number(unit.value)}`)];
}

function softmax(unit, inputs, place) {
  const largest = Math.max(...inputs.data);
  const powers = [...inputs.data].map((value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  const text = `exp(${number(inputs.data[place] - largest)}) / ${number(sum)} = ${number(unit.value)}`;
  return [
    line(text),
    line(`The largest logit, ${number(largest)}, is subtracted from each logit. The divisor is the sum of exp() over all ${powers.length}.`),
  ];
}
