async () => {
  // What is shown, laid out anew and drawn by the browser: no server, no library.
  const dark = document.body.classList.contains("dark") ? "dark" : "";
  const paper = getComputedStyle(document.body).backgroundColor;
  const style = [...document.styleSheets].flatMap((sheet) => {
    try { return [...sheet.cssRules].map((rule) => rule.cssText); } catch { return []; }
  }).filter((text) => text.includes(".scope")).join("\n");
  const width = 1100;
  const sheet = document.createElement("div");
  sheet.className = dark;
  sheet.style.cssText = `width:${width}px;padding:20px;box-sizing:border-box;background:${paper};font-family:system-ui,sans-serif`;
  const css = document.createElement("style");
  css.textContent = style;
  sheet.append(css);
  for (const name of ["answer", "maps", "curves", "layers"]) {
    const part = document.createElement("div");
    part.className = "scope";
    const shown = document.getElementById(name);
    part.append(...[...shown.children].map((child) => child.cloneNode(true)));
    part.querySelectorAll("details").forEach((table) => table.remove());
    sheet.append(part);
  }
  sheet.style.position = "absolute";
  sheet.style.left = "-9999px";
  document.body.append(sheet);
  const height = sheet.offsetHeight;
  sheet.style.position = "static";
  const markup = new XMLSerializer().serializeToString(sheet);
  sheet.remove();
  const picture = new Image();
  picture.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">` +
    `<foreignObject width="100%" height="100%">${markup}</foreignObject></svg>`);
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  const link = document.createElement("a");
  link.href = canvas.toDataURL("image/png");
  link.download = "aliascope.png";
  link.click();
}
