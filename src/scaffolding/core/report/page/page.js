// The page makes itself.

const start = performance.now();
if (data.kind === "run") showRun(data.run);
else showRuns(data);
main.append(element("footer", { class: "dim" }, `written ${data.written} · this file needs no network`));
if (data.reload) {
    const scroll = () => keep("scroll", window.scrollY);
    setTimeout(() => (scroll(), location.reload()), data.reload * 1000);
    requestAnimationFrame(() => window.scrollTo(0, choices.scroll || 0));
}
document.body.dataset.made = Math.round(performance.now() - start);
