// Keeps the list of runs up to date. Everything from the server goes onto the page as text, never as markup.
"use strict";

const ORDER = ["running", "queued", "waiting", "done", "failed", "cancelled", "interrupted"];
const list = document.getElementById("runs");
const blank = document.getElementById("row");
const live = document.getElementById("live");
const paces = new Map();
let now = Date.now() / 1000;

const field = (row, name) => row.querySelector(`[data-field="${name}"]`);

function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

function ago(seconds) {
  if (seconds < 5) return "just now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

function span(seconds) {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(Math.round(seconds % 60)).padStart(2, "0")} s`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")} min`;
}

// Rate and time left are measured here, from the first count of a stage that this page has seen.
function pace(run, stage) {
  const key = `${run.id}/${stage.folder}`;
  const first = paces.get(key);
  if (!first || stage.done < first.done) {
    paces.set(key, { done: stage.done, at: now });
    return [];
  }
  const done = stage.done - first.done, seconds = now - first.at;
  if (done <= 0 || seconds < 1) return [];
  const rate = done / seconds, left = (stage.total - stage.done) / rate;
  const told = rate >= 1 ? `${rate.toFixed(1)}/s` : `${(rate * 60).toFixed(1)}/min`;
  return left > 0 ? [told, `${span(left)} left`] : [told];
}

function count(stage) {
  if (stage.state === "done") return String(stage.counts.outputs ?? "");
  return stage.total ? `${stage.done} of ${stage.total}` : "";
}

function at(run) {
  if (run.state === "queued") return "waits for the device";
  if (["interrupted", "cancelled"].includes(run.state)) return "starting it again goes on from here";
  const stage = run.stages.find((each) => each.state === "running");
  if (!stage) return run.state === "running" && !run.stages.some((each) => each.state === "done") ? "loads the model" : "";
  return [`${stage.kind}: ${count(stage) || "begins"}`, ...(stage.total ? pace(run, stage) : [])].join(" · ");
}

function fillStages(row, stages) {
  const track = row.querySelector(".stages");
  while (track.children.length > stages.length) track.lastElementChild.remove();
  stages.forEach((stage, i) => {
    let item = track.children[i];
    if (!item) {
      item = document.createElement("li");
      for (const [tag, name] of [["span", "kind"], ["progress", ""], ["span", "count"]]) {
        const part = document.createElement(tag);
        if (name) part.className = name;
        item.append(part);
      }
      track.append(item);
    }
    const bar = item.querySelector("progress");
    item.dataset.state = stage.state;
    bar.max = stage.total || 1;
    bar.value = stage.state === "done" && !stage.total ? 1 : stage.done;
    text(item.querySelector(".kind"), stage.kind);
    text(item.querySelector(".count"), count(stage));
  });
}

function fill(row, run) {
  row.dataset.run = run.id;
  row.dataset.state = run.state;
  row.dataset.updated = run.updated;
  text(field(row, "id"), run.id);
  text(field(row, "state"), run.state);
  text(field(row, "now"), at(run));
  field(row, "when").dateTime = new Date(run.updated * 1000).toISOString();
  const report = field(row, "report"), error = field(row, "error");
  report.hidden = !run.report;
  if (run.report) report.href = `/api/runs/${encodeURIComponent(run.id)}/report`;
  error.hidden = !run.error;
  text(error, run.error);
  row.querySelector('[data-action="stop"]').hidden = !run.stoppable;
  fillStages(row, run.stages);
}

function show(runs) {
  const rows = new Map([...list.children].map((row) => [row.dataset.run, row]));
  runs.forEach((run, i) => {
    const row = rows.get(run.id) ?? blank.content.firstElementChild.cloneNode(true);
    rows.delete(run.id);
    fill(row, run);
    if (list.children[i] !== row) list.insertBefore(row, list.children[i] ?? null);
  });
  rows.forEach((row) => row.remove());
  document.getElementById("empty").hidden = runs.length > 0;
  const counts = ORDER.map((state) => [runs.filter((run) => run.state === state).length, state]);
  text(document.getElementById("summary"), counts.filter(([n]) => n).map((pair) => pair.join("\u00a0")).join(", ") || "No runs");
  tellTimes();
}

function tellTimes() {
  for (const row of list.children) {
    if (row.dataset.updated) text(field(row, "when"), ago(now - Number(row.dataset.updated)));
  }
}

list.addEventListener("click", async (event) => {
  const button = event.target.closest('[data-action="stop"]');
  if (!button) return;
  button.disabled = true;
  const run = button.closest("[data-run]").dataset.run;
  const headers = { "Content-Type": "application/json" };
  try {
    await fetch(`/api/runs/${encodeURIComponent(run)}/cancel`, { method: "POST", headers, body: "{}" });
  } finally {
    button.disabled = false;
  }
});

const source = new EventSource("/api/events");
source.addEventListener("runs", (event) => {
  const data = JSON.parse(event.data);
  now = data.now;
  live.dataset.state = "on";
  show(data.runs);
});
source.addEventListener("error", () => { live.dataset.state = "off"; });
setInterval(() => { now += 1; tellTimes(); }, 1000);
