// The API as /openapi.json tells it.

function shape(schema, all, depth = 0) {
  if (schema.$ref) return shape(all[schema.$ref.split("/").pop()], all, depth);
  if (schema.anyOf) return [...new Set(schema.anyOf.map((one) => shape(one, all, depth)))].join(" | ");
  if (schema.type === "array") return `[${shape(schema.items ?? {}, all, depth)}, …]`;
  if (schema.type === "object" && schema.properties) {
    const pad = "  ".repeat(depth + 1);
    const needed = schema.required ?? [];
    const fields = Object.entries(schema.properties).map(([name, one]) => {
      const fallback = !needed.includes(name) && one.default !== undefined && one.default !== null
        ? ` = ${JSON.stringify(one.default)}` : "";
      return `${pad}"${name}"${needed.includes(name) ? "" : "?"}: ${shape(one, all, depth + 1)}${fallback}`;
    });
    return `{\n${fields.join(",\n")}\n${"  ".repeat(depth)}}`;
  }
  if (schema.contentEncoding === "base64") return "base64 of float32";
  return schema.type ?? "any";
}

function add(parent, name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  parent.append(made);
  return made;
}

const document_ = await (await fetch("/openapi.json")).json();
const all = document_.components.schemas;
document.getElementById("about").textContent = document_.info.description;
for (const [path, methods] of Object.entries(document_.paths)) {
  for (const [method, verb] of Object.entries(methods)) {
    const block = document.createElement("details");
    block.id = verb.operationId;
    const head = document.createElement("summary");
    add(head, "code", `${method.toUpperCase()} ${path}`);
    head.append(` ${verb.summary}`);
    block.append(head);
    const asked = verb.requestBody?.content["application/json"]?.schema;
    if (asked) {
      add(block, "h3", "Body");
      add(block, "pre", shape(asked, all));
    }
    const told = verb.responses["200"].content["application/json"]?.schema;
    add(block, "h3", "Answer");
    add(block, "pre", told ? shape(told, all) : verb.responses["200"].description);
    document.getElementById("verbs").append(block);
  }
}
if (location.hash) document.getElementById(location.hash.slice(1))?.setAttribute("open", "");
