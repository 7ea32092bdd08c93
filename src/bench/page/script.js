"use strict";
// Tells the values nearest to the pointer, of every line of the chart.
for (const figure of document.querySelectorAll("figure:not(.bars)")) {
  const svg = figure.querySelector("svg");
  const told = figure.querySelector(".told");
  const cursor = svg.querySelector(".cursor");
  const lines = [...svg.querySelectorAll("polyline")].map((line) => ({
    name: line.dataset.name,
    told: line.dataset.told.split("|"),
    xs: line.getAttribute("points").split(" ").map((point) => parseFloat(point)),
  }));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    let best = null;
    const texts = lines.filter((line) => !Number.isNaN(line.xs[0])).map((line) => {
      let at = 0;
      line.xs.forEach((other, n) => {
        if (Math.abs(other - x) < Math.abs(line.xs[at] - x)) at = n;
      });
      if (best === null || Math.abs(line.xs[at] - x) < Math.abs(best - x)) best = line.xs[at];
      return line.name + " at " + line.told[at];
    });
    told.textContent = texts.join("; ");
    if (best !== null) {
      cursor.setAttribute("transform", "translate(" + best + ")");
      cursor.style.visibility = "visible";
    }
  });
  svg.addEventListener("pointerleave", () => {
    told.textContent = "";
    cursor.style.visibility = "hidden";
  });
}
