// What each operation does, in a few words.

const MEANINGS = {
  add: "adds two tensors, value by value",
  adaptive_avg_pool2d: "the mean of each map, or of its parts",
  argmax: "the position of the largest value: the answer",
  avg_pool2d: "keeps the mean of each small square, so that maps get smaller",
  batch_norm: "shifts and scales each map, based on the values that were usual in training",
  cat: "joins tensors end to end",
  conv2d: "slides a small kernel over all maps: each value is the sum of the products of a patch and the kernel",
  dropout: "sets random values to zero during training; here it changes nothing",
  flatten: "the same values in one row",
  float: "the same values as floating-point numbers",
  gelu: "a smooth version of relu",
  linear: "each value is a weighted sum of all inputs, with weights of its own",
  max_pool2d: "keeps the largest value of each small square, so that maps get smaller",
  mul: "multiplies by a number, or by another tensor",
  relu: "negative values become zero",
  sigmoid: "squeezes values into the range 0 to 1",
  softmax: "turns logits into probabilities, which add up to one",
  sub: "subtracts a number, or another tensor",
  tanh: "squeezes values into the range −1 to 1",
  unsqueeze: "adds a dimension for the channel",
};

/** Explain an operation by its name, such as "relu_"; undefined for one that is not listed. */
export function meaning(name) {
  return MEANINGS[name.replace(/_$/, "")];
}
