"use strict";
(() => {
  const data = document.getElementById("curves-data");
  if (data && window.Bokeh) {
    const curves = JSON.parse(data.textContent);
    window.Bokeh.set_log_level("error");
    window.Bokeh.embed.embed_items(curves.documents, curves.items);
  }

  const show = (run, shown) => {
    for (const group of document.querySelectorAll("[data-run]")) {
      if (group.dataset.run === run) group.style.display = shown ? "" : "none";
    }
    if (!window.Bokeh) return;
    for (const doc of window.Bokeh.documents) {
      for (const model of doc.all_models) {
        if (model.tags && model.tags.includes("run:" + run)) model.visible = shown;
      }
    }
  };
  for (const box of document.querySelectorAll("[data-toggle]")) {
    box.addEventListener("change", () => show(box.dataset.toggle, box.checked));
  }

  const dialog = document.getElementById("zoom");
  const large = dialog.querySelector("img");
  const open = (image) => {
    large.src = image.src;
    large.alt = image.alt;
    large.style.imageRendering = image.naturalWidth < 700 ? "pixelated" : "auto";
    large.style.width = Math.min(image.naturalWidth * 2, window.innerWidth * 0.92) + "px";
    dialog.showModal();
  };
  for (const image of document.querySelectorAll("img.zoom")) {
    image.tabIndex = 0;
    image.setAttribute("role", "button");
    image.addEventListener("click", () => open(image));
    image.addEventListener("keydown", (event) => {
      if (event.key === "Enter") open(image);
    });
  }
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target === large) dialog.close();
  });

  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
})();
