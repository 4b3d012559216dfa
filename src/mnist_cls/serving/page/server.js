// Requests to this page's server.

/** Send an image; return the answer, with tensors as {shape, data}, or throw an Error with the server's reason. */
export async function ask(path, parameters, image) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value));
  const type = image.type.startsWith("image/") ? image.type : "application/octet-stream";
  const options = { method: "POST", headers: { "Content-Type": type }, body: image };
  const response = await fetch(`${path}?${query}`, options).catch(() => {
    throw new Error("the server does not respond");
  });
  if (!response.ok) {
    const { error } = await response.json().catch(() => ({ error: `status ${response.status}` }));
    throw new Error(error);
  }
  const size = Number(response.headers.get("Inference-Header-Content-Length"));
  if (!size) return response.json();
  // JSON, followed by the values of its tensors.
  const content = await response.arrayBuffer();
  const read = (_, value) => {
    if (value?.offset === undefined) return value;
    const count = value.shape.reduce((all, length) => all * length, 1);
    return { shape: value.shape, data: new Float32Array(content, size + value.offset, count) };
  };
  return JSON.parse(new TextDecoder().decode(new Uint8Array(content, 0, size)), read);
}

/** The names of the networks, the default one first. */
export async function networks() {
  return (await (await fetch("/networks")).json()).networks;
}

/**
 * Return a function that runs `work(...)`, one call at a time. Of the calls that come while it runs, only the last one
 * is run afterwards.
 */
export function latest(work) {
  let next = null;
  let isRunning = false;
  return async (...given) => {
    next = given;
    if (isRunning) return;
    isRunning = true;
    try {
      while (next) {
        const now = next;
        next = null;
        await work(...now);
      }
    } finally {
      isRunning = false;
    }
  };
}
