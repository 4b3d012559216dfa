// Shows /openapi.json, the description of the routes, as a page.

import { find, make } from "./dom.js";

const METHODS = ["get", "post", "put", "delete"];
const LIMITS = ["minimum", "maximum", "minItems", "maxItems", "pattern"];
const LIMIT_NAMES = { minimum: "from", maximum: "to", minItems: "at least", maxItems: "at most", pattern: "matching" };

/** Nodes for a text; text in backticks becomes code. */
function words(text = "") {
  return text.split("`").map((part, index) => (index % 2 ? make("code", { text: part }) : part));
}

/** A short description of a schema, with links to other schemas. */
function brief(schema) {
  if (schema === undefined) return ["anything"];
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return [make("a", { text: name, href: `#schema-${name}` })];
  }
  if (schema.anyOf) return schema.anyOf.flatMap((one, index) => [index ? " or " : "", ...brief(one)]);
  if ("const" in schema) return [make("code", { text: JSON.stringify(schema.const) })];
  if (schema.enum) return [make("code", { text: schema.enum.map((one) => JSON.stringify(one)).join(" or ") })];
  if (schema.prefixItems) {
    return ["[", ...schema.prefixItems.flatMap((one, index) => [index ? ", " : "", ...brief(one)]), "]"];
  }
  const limits = LIMITS.filter((key) => key in schema).map((key) => ` ${LIMIT_NAMES[key]} ${schema[key]}`);
  const kind = [schema.type ?? "anything"].flat().join(" or ");
  if (schema.format === "binary") return ["bytes"];
  if (schema.items) return [`${kind} of `, ...brief(schema.items), ...(limits.length ? [","] : []), ...limits];
  return [kind, ...limits];
}

/** A list of terms, each with what it means. */
function terms(rows) {
  return make("dl", {}, ...rows.flatMap(([term, ...meaning]) => [make("dt", {}, term), make("dd", {}, ...meaning)]));
}

function code(text) {
  return make("code", { text });
}

/** The properties of a schema, with those of nested objects indented below. */
function properties(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const inner = property.properties ? property : property.items?.properties ? property.items : undefined;
    const required = schema.required?.includes(name) ? ["required, "] : [];
    const about = property.description ? [". ", ...words(property.description)] : [];
    return [code(name), ...required, ...brief(property), ...about, ...(inner ? [properties(inner)] : [])];
  });
  return terms(rows);
}

/** Commands that call a route, one for each type of body. */
function curl(method, path, { parameters = [], requestBody }) {
  const filled = parameters.reduce((url, { name, schema }) => url.replace(`{${name}}`, schema.enum?.[0] ?? name), path);
  const url = `${location.origin}${filled}`;
  if (method === "get") return [`curl ${url}`];
  const commands = {
    "image/*": `curl --data-binary @digit.png -H 'Content-Type: image/png' ${url}`,
    "multipart/form-data": `curl -F files=@a.png -F files=@b.png ${url}`,
    "application/json": `curl --data-binary @request.json -H 'Content-Type: application/json' ${url}`,
  };
  return Object.keys(requestBody?.content ?? {}).flatMap((kind) => commands[kind] ?? []);
}

function contents(content = {}) {
  return Object.entries(content).map(([kind, { schema }]) => [code(kind), ...brief(schema)]);
}

/** One route: its parameters, body and answers, and an example. */
function route(method, path, described) {
  const { summary, parameters = [], requestBody, responses } = described;
  const id = `${method}${path.replaceAll(/[^a-z0-9]+/g, "-")}`;
  const heading = make("h3", { id }, make("span", { class: "method", text: method.toUpperCase() }), " ", code(path));
  const section = make("section", { class: "route", "aria-labelledby": id }, heading, make("p", {}, ...words(summary)));
  const add = (title, list) => section.append(make("h4", { text: title }), list);
  if (parameters.length) {
    const rows = parameters.map(({ name, in: place, schema, description }) => [
      code(name), `in the ${place}, `, ...brief(schema), ". ", ...words(description),
    ]);
    add("Parameters", terms(rows));
  }
  if (requestBody) add("Body", terms(contents(requestBody.content)));
  const answers = Object.entries(responses).map(([status, { description, content }]) =>
    status === "200" ? [code(status), terms(contents(content))] : [code(status), ...words(description)],
  );
  add("Answers", terms(answers));
  const commands = curl(method, path, described).join("\n");
  add("Example", make("pre", { tabindex: "0", "aria-label": `Example of ${path}`, text: commands }));
  find("contents").append(make("li", {}, make("a", { href: `#${id}` }, `${method.toUpperCase()} ${path}`)));
  return section;
}

function show({ tags, paths, components }) {
  const all = Object.entries(paths).flatMap(([path, methods]) =>
    METHODS.filter((method) => method in methods).map((method) => [method, path, methods[method]]),
  );
  for (const { name } of tags) {
    const routes = all.filter(([, , described]) => described.tags.includes(name));
    find("routes").append(make("h2", { text: name }), ...routes.map((one) => route(...one)));
  }
  find("routes").append(make("h2", { text: "Schemas" }));
  for (const [name, schema] of Object.entries(components.schemas)) {
    const id = `schema-${name}`;
    const about = schema.description ? [make("p", {}, ...words(schema.description))] : [];
    const heading = make("h3", { id, text: name });
    find("routes").append(make("section", { class: "route", "aria-labelledby": id }, heading, ...about, properties(schema)));
  }
  // The browser looked for the section named in the address before that existed.
  document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

try {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  show(await answer.json());
} catch (error) {
  find("routes").append(make("p", { role: "alert", text: `openapi.json cannot be read: ${error.message}` }));
}
