"use strict";
{
  const light = ["#1f6fb5", "#c8501e", "#2e8b57", "#8a4fbf", "#b8860b", "#c2387a", "#2a8f93", "#7a5c3e"];
  const dark = ["#69aee8", "#ef7f4e", "#4fb37c", "#b98be6", "#dfb23f", "#ec77ab", "#54c3c7", "#c09a72"];
  const splits = ["train", "test", "validation", ""];
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const charts = JSON.parse(document.getElementById("data").textContent);
  const several = new Set(charts.flatMap((chart) => chart.curves.map((c) => c.run))).size > 1;
  const colour = (number) => (scheme.matches ? dark : light)[number % light.length];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

  function series(curve) {
    return {
      label: curve.name,
      stroke: () => colour(several ? curve.run : splits.indexOf(curve.split)),
      width: curve.split === "train" ? 1.2 : 2,
      dash: several ? { train: [4, 3], validation: [1, 3] }[curve.split] : undefined,
      points: { show: curve.x.length <= 20, size: 5, fill: () => colour(several ? curve.run : splits.indexOf(curve.split)) },
      spanGaps: true,
      value: (_, value) => (value == null ? "–" : Number(value.toPrecision(5)).toLocaleString("en")),
    };
  }

  function draw(box, chart) {
    const joined = uPlot.join(chart.curves.map((c) => [c.x, c.y]));
    const lines = { stroke: () => css("--line"), width: 1 };
    const powers = (_, values) => values.map((v) => (v.toExponential().startsWith("1e") ? v : null));
    const axis = (more) => ({ stroke: () => css("--soft"), grid: { ...lines, ...more }, ticks: { ...lines, ...more } });
    const plot = new uPlot({
      width: box.clientWidth, height: 240,
      scales: { x: { time: false }, y: { distr: chart.log ? 3 : 1 } },
      axes: [{ ...axis(), size: 34, label: "epoch", labelSize: 16, labelGap: 0 }, { ...axis(chart.log && { filter: powers }), size: 60 }],
      series: [{ label: "epoch", value: (_, x) => (x == null ? "–" : String(Math.round(x * 100) / 100)) }, ...chart.curves.map(series)],
      cursor: { drag: { x: true, y: true, uni: 40 }, focus: { prox: 24 } },
      focus: { alpha: 0.35 },
    }, joined, box);
    new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: 240 })).observe(box);
    scheme.addEventListener("change", () => plot.redraw());
  }

  for (const chart of charts) {
    const box = document.getElementById("charts").appendChild(document.createElement("div"));
    box.className = "chart";
    box.appendChild(document.createElement("h3")).textContent = chart.title;
    draw(box, chart);
  }
  const paint = () => document.querySelectorAll(".key").forEach((key) => { key.style.background = colour(Number(key.dataset.run)); });
  scheme.addEventListener("change", paint);
  paint();
  if (!charts.length) document.getElementById("curves").remove();
}
