// node render.mjs PLAN.json OUT_DIR
// For each set of the plan: OUT_DIR/NAME.rgb (raw RGB, images back to back) and OUT_DIR/NAME.json (their names).
// An image whose pixels were already seen in the same set is left out.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import * as collection from '@dicebear/collection';
import { createAvatar } from '@dicebear/core';
import { Resvg } from '@resvg/resvg-js';

const [, , planFile, outDir] = process.argv;
const plan = JSON.parse(fs.readFileSync(planFile, 'utf8'));

function rasterise(svg) {
  const picture = new Resvg(svg, {
    background: '#ffffff',
    fitTo: { mode: 'width', value: plan.size },
    // System fonts would make the result depend on the machine.
    font: { loadSystemFonts: false },
  }).render();
  if (picture.width !== plan.size || picture.height !== plan.size) {
    throw new Error(`rendered ${picture.width}x${picture.height}, wanted ${plan.size}x${plan.size}`);
  }
  const rgba = picture.pixels;
  const rgb = Buffer.alloc(plan.size * plan.size * 3);
  for (let k = 0; k < plan.size * plan.size; k++) {
    if (rgba[4 * k + 3] !== 255) throw new Error('a pixel is not opaque');
    for (let c = 0; c < 3; c++) rgb[3 * k + c] = plan.step * Math.round(rgba[4 * k + c] / plan.step);
  }
  return rgb;
}

function* avatars(set) {
  for (let i = 0; i < 4 * set.count; i++) {
    const name = `${set.name}-${i}`;
    yield [name, createAvatar(collection[set.style], { seed: name, size: plan.size }).toString()];
  }
}

function* emoji(set) {
  const icons = JSON.parse(fs.readFileSync(path.join('node_modules', set.package, 'icons.json'), 'utf8'));
  for (const name of set.names) {
    const icon = icons.icons[name];
    const width = icon.width ?? icons.width ?? 16;
    const height = icon.height ?? icons.height ?? 16;
    // A few icons are not square: they are centred in a square box.
    const side = Math.max(width, height);
    const left = (icon.left ?? 0) - (side - width) / 2;
    const top = (icon.top ?? 0) - (side - height) / 2;
    yield [
      name,
      `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ` +
        `viewBox="${left} ${top} ${side} ${side}" width="${side}" height="${side}">${icon.body}</svg>`,
    ];
  }
}

for (const set of plan.sets) {
  const seen = new Set();
  const names = [];
  const images = [];
  for (const [name, svg] of set.style ? avatars(set) : emoji(set)) {
    if (names.length === set.count) break;
    const rgb = rasterise(svg);
    const digest = createHash('sha256').update(rgb).digest('hex');
    if (seen.has(digest)) continue;
    seen.add(digest);
    names.push(name);
    images.push(rgb);
  }
  if (names.length < set.count) throw new Error(`${set.name}: ${names.length} distinct images, wanted ${set.count}`);
  fs.writeFileSync(path.join(outDir, `${set.name}.rgb`), Buffer.concat(images));
  fs.writeFileSync(path.join(outDir, `${set.name}.json`), JSON.stringify(names));
  console.log(`${set.name}: ${names.length}`);
}
