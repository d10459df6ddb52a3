"use strict";
// What the icicle and the table share. Names come from users' networks: they enter the page as text, never as markup.

const REPORT = JSON.parse(document.getElementById("data").textContent);

/** Columns of a row of REPORT.layers. */
const PATH = 0, KIND = 1, OUTPUT = 2, FLOP = 3, TIME = 4, ENERGY = 5, LOW = 6, HIGH = 7, FLAGS = 8;

const TOTAL = {
  energy: REPORT.layers.reduce((sum, row) => sum + row[ENERGY], REPORT.gap_j) || 1e-300,
  flop: REPORT.layers.reduce((sum, row) => sum + row[FLOP], 0) || 1,
};

const PREFIXES = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];

/** A quantity with three digits and a prefix, like `small` and `large` in Python: 0.00123 J is "1.23 mJ". */
function quantity(value, unit) {
  const rounded = Number(value.toPrecision(3));
  const fits = PREFIXES.find(([scale]) => Math.abs(rounded) >= scale) || (value ? PREFIXES[9] : [1, ""]);
  return `${Number((rounded / fits[0]).toPrecision(3))} ${fits[1]}${unit}`.trimEnd();
}

/** Percents with one decimal, which say nothing or all only of what is, like `share` in Python. */
function percent(share) {
  const text = (100 * share).toFixed(1);
  if (text === "0.0" && share > 0) return "<0.1%";
  return text === "100.0" && share < 1 - 1e-12 ? ">99.9%" : `${text}%`;
}

const colour = (kind) => `c${Math.min(kind, 7)}`;

/** A new element with a class and a text. */
function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
