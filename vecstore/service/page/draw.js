// Pictures: latencies of the last minutes, and the clustering of a collection.

const SVG = "http://www.w3.org/2000/svg";

function put(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Seconds below which a share of the calls lay, by linear interpolation within its bucket.
export function quantile(counts, bounds, share) {
  const wanted = share * counts.reduce((sum, count) => sum + count, 0);
  if (!wanted) return null;
  let passed = 0;
  for (let i = 0; i < counts.length; i++) {
    if (passed + counts[i] >= wanted) {
      const low = i ? bounds[i - 1] : 0;
      const high = i < bounds.length ? bounds[i] : 2 * bounds[bounds.length - 1];
      return low + (high - low) * (wanted - passed) / counts[i];
    }
    passed += counts[i];
  }
  return null;
}

export function seconds(value) {
  if (value === null) return "–";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${Number((value * 1e3).toPrecision(2))} ms`;
  return `${Number(value.toPrecision(2))} s`;
}

export function drawLatency(svg, caption, activity) {
  const { period_s: period, upper_bounds_s: bounds, counts } = activity;
  const [width, height, left, bottom] = [720, 170, 46, 18];
  const queries = counts.query;
  const low = Math.log10(1e-4), high = Math.log10(10);
  const x = (i) => left + (i + 0.5) * (width - left) / queries.length;
  const y = (s) => 6 + (height - bottom - 6) *
    (1 - (Math.log10(Math.min(10, Math.max(1e-4, s))) - low) / (high - low));
  svg.replaceChildren();
  for (const s of [1e-4, 1e-3, 1e-2, 0.1, 1, 10]) {
    put(svg, "line", { x1: left, x2: width, y1: y(s), y2: y(s), stroke: colour("--line") });
    put(svg, "text", { x: left - 6, y: y(s) + 4, "text-anchor": "end" }, seconds(s));
  }
  for (const minutes of [15, 10, 5, 0]) {
    const at = x(queries.length - 1 - minutes * 60 / period) || left;
    const anchor = minutes === 0 ? "end" : minutes === 15 ? "start" : "middle";
    const place = Math.min(width - 4, Math.max(left, at));
    put(svg, "text", { x: place, y: height - 4, "text-anchor": anchor },
      minutes ? `−${minutes} min` : "now");
  }
  const totals = queries.map((one) => one.reduce((sum, count) => sum + count, 0));
  const most = Math.max(1, ...totals);
  const wide = Math.max(1, (width - left) / queries.length - 1);
  totals.forEach((total, i) => {
    const tall = total / most * (height - bottom - 6) * 0.5;
    if (total) {
      put(svg, "rect", { x: x(i) - wide / 2, y: height - bottom - tall, width: wide, height: tall,
        fill: colour("--line") });
    }
  });
  for (const [share, name] of [[0.5, "--mark"], [0.99, "--second"]]) {
    let path = "";
    queries.forEach((one, i) => {
      const s = quantile(one, bounds, share);
      if (s === null) return;
      path += `${path && totals[i - 1] ? "L" : "M"}${x(i).toFixed(1)} ${y(s).toFixed(1)}h.1`;
    });
    put(svg, "path", { d: path, fill: "none", stroke: colour(name), "stroke-width": 2,
      "stroke-linecap": "round" });
  }
  const sum = (rows) => bounds.concat(0).map((_, b) => rows.reduce((s, row) => s + row[b], 0));
  const all = sum(queries);
  const calls = (name) => counts[name].flat().reduce((s, c) => s + c, 0).toLocaleString("en");
  caption.textContent = `Queries: ${calls("query")}, half within ` +
    `${seconds(quantile(all, bounds, 0.5))} (lower line), 99 % within ` +
    `${seconds(quantile(all, bounds, 0.99))} (upper line), busiest ` +
    `${Number((most / period).toPrecision(2)).toLocaleString("en")}/s (bars). ` +
    `Other reads: ${calls("read")}; writes: ${calls("write")}.`;
}

export function drawMap(canvas, caption, map) {
  const pen = canvas.getContext("2d");
  const { width, height } = canvas;
  pen.clearRect(0, 0, width, height);
  if (!map.x.length) {
    caption.textContent = map.postings
      ? `One posting of ${map.rows_indexed.toLocaleString("en")} rows, without a centroid to show.`
      : `${map.rows_fresh.toLocaleString("en")} rows, none of them in a posting yet.`;
    return;
  }
  const half = Math.min(width, height) / 2 - 16;
  const scale = width / height;
  const most = Math.max(...map.rows, 1);
  pen.fillStyle = colour("--mark");
  pen.globalAlpha = map.x.length > 1500 ? 0.35 : 0.55;
  map.x.forEach((x, i) => {
    const radius = 1 + 7 * Math.sqrt(map.rows[i] / most) / Math.max(1, Math.sqrt(map.x.length / 300));
    pen.beginPath();
    pen.arc(width / 2 + x * half * scale, height / 2 - map.y[i] * half, radius, 0, 2 * Math.PI);
    pen.fill();
  });
  pen.globalAlpha = 1;
  const sizes = [...map.rows].sort((a, b) => a - b);
  const at = (share) => sizes[Math.min(sizes.length - 1, Math.floor(share * sizes.length))];
  caption.textContent = `${map.postings.toLocaleString("en")} centroids on their two main ` +
    `directions (${Math.round(100 * map.variance)} % of their variance); area is the length of ` +
    `the posting: ${at(0.01)} to ${at(0.99)} entries, ${at(0.5)} in the middle. ` +
    `${map.rows_fresh.toLocaleString("en")} rows are in none yet.`;
}
