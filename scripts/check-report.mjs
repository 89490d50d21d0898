// Uses a report as a person does: node scripts/check-report.mjs PAGE FOLDER FILLED, where FILLED is the page of a matrix with
// filled experts. See check-report.sh.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const { chromium } = createRequire(process.env.PLAYWRIGHT)("playwright-core");
const [file, folder, filled] = process.argv.slice(2);
const SIZES = { desktop: { width: 1400, height: 900 }, phone: { width: 390, height: 844 } };

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--headless", "--no-sandbox", "--disable-gpu"] });
for (const [size, viewport] of Object.entries(SIZES)) {
  for (const colorScheme of ["light", "dark"]) {
    const context = await browser.newContext({ viewport, colorScheme });
    const page = await context.newPage();
    const complaints = [];
    page.on("console", (message) => complaints.push(message.text()));
    page.on("pageerror", (error) => complaints.push(error.message));
    page.on("request", (request) => request.url().startsWith("file:") || complaints.push(`asks for ${request.url()}`));
    await page.goto(pathToFileURL(path.resolve(file)).href, { waitUntil: "load" });
    const ready = await page.evaluate(() => performance.getEntriesByType("navigation")[0].loadEventEnd);
    await page.waitForSelector("#layers canvas");
    await page.screenshot({ path: path.join(folder, `${size}-${colorScheme}.png`), fullPage: true });
    await use(page, colorScheme);
    assert.deepEqual(complaints, [], `${size}, ${colorScheme}`);
    console.log(`${size}, ${colorScheme}: ready after ${Math.round(ready)} ms`);
    await context.close();
  }
}
await useFilled(await browser.newPage({ viewport: SIZES.desktop }));
await browser.close();

/** A filled expert is named in the notes, in the verdict and under the pointer. */
async function useFilled(page) {
  await page.goto(pathToFileURL(path.resolve(filled)).href, { waitUntil: "load" });
  assert.match(await page.locator("#summary .note").textContent(), /3 experts in 3 weights were filled/);
  assert.match(await page.locator("#summary .verdict").textContent(), /1 of 24 experts saw few tokens or none: their sums were filled/);
  const canvas = page.locator("#experts canvas").first();
  await canvas.scrollIntoViewIfNeeded();
  const box = await canvas.boundingBox();
  await page.mouse.move(box.x + (5.5 / 8) * box.width, box.y + (1.5 / 3) * box.height);
  assert.match(await page.locator("#experts").textContent(), /layer 1, expert 5: 1 row, .* filled/);
}

async function use(page, colorScheme) {
  const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
  assert.equal(await theme(), colorScheme);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "the page is wider than the screen");

  // Another statistic colours the cells anew and names itself in them.
  const cell = page.locator("#heatmap td:not(.empty)").first();
  const before = await cell.getAttribute("aria-label");
  await page.getByLabel("Statistic").selectOption("top1_energy");
  assert.notEqual(await cell.getAttribute("aria-label"), before);

  // Arrow keys walk through the heat map; Enter shows the channels of that weight.
  await cell.focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  const name = (await page.evaluate(() => document.activeElement.getAttribute("aria-label"))).split(":")[0];
  assert.equal(await page.locator("#channels select").inputValue(), name);
  assert.equal(await page.locator("#channels h3").first().textContent(), `Energy of ${name}`);

  // A heading sorts, and says so.
  const heading = page.locator("#weights th", { has: page.getByRole("button", { name: "H Norm" }) });
  const column = await heading.evaluate((th) => th.cellIndex);
  const numbers = () => page.locator("#weights tbody tr").evaluateAll((rows, at) => rows.map((row) => Number(row.cells[at].textContent)), column);
  for (const [order, sign] of [["descending", -1], ["ascending", 1]]) {
    await heading.getByRole("button").click();
    assert.equal(await heading.getAttribute("aria-sort"), order);
    const found = await numbers();
    assert.ok(found.length > 1);
    assert.deepEqual(found, [...found].sort((a, b) => sign * (a - b)));
  }
  await page.locator("#weights input[type=search]").fill("attn_q");
  const left = await page.locator("#weights tbody th").allTextContents();
  assert.ok(left.length && left.every((tensor) => tensor.includes("attn_q")));

  // The numbers behind a chart, the other measure of the prism, the experts in order.
  await page.locator("#lens summary").first().click();
  await page.locator("#lens details table tbody tr").nth(1).waitFor(); // made once the browser has told that it is open
  const title = page.locator("#prism h3").first();
  const mean = await title.textContent();
  await page.locator("#prism").getByLabel("Show").selectOption("share");
  assert.notEqual(await title.textContent(), mean);
  for (const part of ["lens", "prism", "similarity"]) {
    const section = page.locator(`#${part}`);
    await section.getByLabel("File").selectOption("all");
    assert.match(await section.locator(".u-legend").first().textContent(), /first\.gguf.*second\.gguf/);
  }
  await page.getByLabel("sort by count").check();

  // Two curves of recipes over the sizes of both, in bits or in bytes.
  const recipes = page.locator("#recipes");
  for (const unit of ["bits", "bytes"]) {
    await recipes.getByLabel("Size in").selectOption(unit);
    assert.match(await recipes.locator(".u-legend").textContent(), /estimated\.csv.*measured\.csv/);
    await recipes.locator("summary").click();
    await recipes.getByRole("button", { name: /^Show all \d/ }).click();
    const costs = await recipes.locator("details tbody tr").evaluateAll((rows) => rows.map((row) => Number(row.cells[1].textContent)));
    assert.ok(costs.length > 50 && costs.every((cost, i) => i === 0 || !(cost > costs[i - 1])), "costs fall with the size");
  }

  // Every chart says in words what it shows; every table has a name.
  for (const chart of await page.locator("[role=img]").all()) assert.ok((await chart.getAttribute("aria-label")).length > 20);
  for (const table of await page.locator("table.data").all()) assert.ok((await table.locator("caption").textContent()).length > 3);

  await page.locator("#theme").click();
  assert.notEqual(await theme(), colorScheme);
}
