// What operations do, in a sentence.

const MEANINGS = {
  add: "adds two tensors, value by value",
  adaptive_avg_pool2d: "the mean of each map, or of its parts",
  argmax: "the position of the largest value: the answer",
  avg_pool2d: "the mean of each small square, so that maps get smaller",
  batch_norm: "shifts and scales each map by what was usual in training",
  cat: "puts tensors behind one another",
  conv2d: "slides a small kernel over all maps: each value is a sum of products of a patch and the kernel",
  dropout: "in training it sets values to zero at random; now it changes nothing",
  flatten: "the same values in one row",
  float: "the same values as floating-point numbers",
  gelu: "a smooth relu",
  linear: "each value is a sum of products of all inputs and weights of its own",
  max_pool2d: "the largest value of each small square, so that maps get smaller",
  mul: "scales all values",
  relu: "negative values become zero",
  sigmoid: "squeezes values into 0 to 1",
  softmax: "turns logits into probabilities, which add up to one",
  sub: "subtracts from all values",
  tanh: "squeezes values into -1 to 1",
  unsqueeze: "adds a dimension for the channel",
};

/** Explain an operation by its name, such as "relu_"; undefined for one that is not listed. */
export function meaning(name) {
  return MEANINGS[name.replace(/_$/, "")];
}
