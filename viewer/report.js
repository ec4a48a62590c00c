// Shows the <title> of whatever the pointer is over as a tooltip that appears at once and follows it.
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);

for (const title of document.querySelectorAll("svg title")) {
  title.parentNode.dataset.tip = title.textContent;
  title.remove();
}

function show(event) {
  const words = event.target.dataset ? event.target.dataset.tip : undefined;
  tip.hidden = !words;
  if (!words) return;
  tip.textContent = words;
  const left = event.clientX + 14, top = event.clientY + 14;
  tip.style.left = Math.max(8, Math.min(left, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = (top + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : top) + "px";
}

addEventListener("pointermove", show);
addEventListener("pointerdown", show);
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
