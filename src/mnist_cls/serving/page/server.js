// Questions to the server that this page comes from.

/** Send an image, and return the answer as an object; throw an Error with the server's reason. */
export async function ask(path, parameters, image) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value));
  const type = image.type.startsWith("image/") ? image.type : "application/octet-stream";
  const options = { method: "POST", headers: { "Content-Type": type }, body: image };
  const response = await fetch(`${path}?${query}`, options).catch(() => {
    throw new Error("the server does not answer");
  });
  const answer = await response.json().catch(() => ({ error: `status ${response.status}` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

/** The names of the networks, the default one first. */
export async function networks() {
  return (await (await fetch("/networks")).json()).networks;
}

/**
 * Return a function that runs `work(...)` with the arguments of its latest call. One runs at a time; of the calls
 * that come meanwhile only the last one is run.
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
