// Files of the user, and the request that carries them.

import { Problem } from "./api.js";

export function kind(file) {
  if (/\.npy$/i.test(file.name)) return "npy";
  return /\.(csv|tsv|txt)$/i.test(file.name) || file.type === "text/csv" ? "csv" : "image";
}

/** The request for `fetch` that carries the files; throws a Problem where no request can. */
export async function request(files) {
  const kinds = new Set(files.map(kind));
  if (!kinds.has("npy") && !kinds.has("csv")) {
    const body = new FormData();
    files.forEach((file) => body.append("images", file));
    return { method: "POST", body };
  }
  if (files.length > 1) throw new Problem("Choose images, or a single CSV or .npy file.");
  if (kinds.has("npy")) return { method: "POST", headers: { "content-type": "application/x-npy" }, body: files[0] };
  const text = await files[0].text().catch(() => Promise.reject(new Problem("The file has changed since. Choose it again.")));
  const rows = parseCsv(text);
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ rows }) };
}

/** Rows of numbers from CSV with commas, semicolons or tabs; a first line without any number is a header. */
export function parseCsv(text) {
  const lines = text.replace(/^\ufeff/, "").split(/\r?\n/);
  const separator = [";", "\t"].find((mark) => lines[0].includes(mark)) ?? ",";
  const cells = (line) => line.split(separator).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1"));
  const isNumber = (cell) => cell !== "" && Number.isFinite(Number(cell));
  const first = cells(lines[0]).some(isNumber) ? 0 : 1;
  const rows = [];
  lines.slice(first).forEach((line, index) => {
    if (!line.trim()) return;
    const row = cells(line);
    const wrong = row.findIndex((cell) => !isNumber(cell));
    if (wrong >= 0) throw new Problem(`Line ${index + first + 1}, column ${wrong + 1} is "${row[wrong]}"; a number is needed.`);
    rows.push(row.map(Number));
  });
  return rows;
}
