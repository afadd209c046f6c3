import type uPlot from 'uplot'
import { hubNow, type Millis, type Point } from './api.ts'
import { formatInstant, formatNumber, formatTick } from './format.ts'
import type { Series } from './series.ts'

export interface Chart {
  draw(series: Series): void
  clear(): void
}

/** The hub serves it itself. */
const library: string = '/uplot/uPlot.esm.js'
const axisFont = '12px system-ui, sans-serif'
/** Where readings stop for so many times their usual distance, the line stops too. */
const gapFactor = 6

/** Draws a series into `host`; `onPoint` hears which point the pointer is at. */
export async function createChart(host: HTMLElement, onPoint: (point: Point | null) => void): Promise<Chart> {
  const { default: UPlot } = (await import(library)) as { default: typeof uPlot }
  let plot: uPlot | null = null
  let shown: Series | null = null
  let points: readonly Point[] = []
  let maxDistance = Number.POSITIVE_INFINITY

  function build(series: Series): uPlot {
    const colors = colorsOf(host)
    const options = optionsOf(series, colors, () => maxDistance)
    options.width = host.clientWidth
    options.height = host.clientHeight
    options.hooks = {
      setCursor: [({ cursor: { idx } }) => onPoint(idx == null ? null : (points[idx] ?? null))],
      draw: [(u) => drawEnd(u, points.at(-1), colors.line)],
    }
    return new UPlot(options, [[], [], [], []], host)
  }

  function clear(): void {
    plot?.destroy()
    plot = null
    shown = null
    onPoint(null)
    delete host.dataset.points
    host.removeAttribute('aria-label')
  }

  function draw(series: Series): void {
    if (host.clientWidth === 0) return
    if (series !== shown) clear()
    shown = series
    plot ??= build(series)
    points = series.points
    maxDistance = usualDistance(points) * gapFactor
    const data: uPlot.AlignedData = [
      points.map(({ ts }) => ts),
      points.map(({ low }) => low),
      points.map(({ high }) => high),
      points.map(({ value }) => value),
    ]
    const now = hubNow()
    const { millis } = series.span
    plot.batch(() => {
      plot?.setData(data, false)
      plot?.setScale('x', { min: now - millis, max: now })
    })
    host.dataset.points = String(points.length)
    host.setAttribute('aria-label', describe(series))
  }

  function rebuild(): void {
    const series = shown
    if (!series) return
    clear()
    draw(series)
  }

  new ResizeObserver(() => {
    if (host.clientWidth > 0) plot?.setSize({ width: host.clientWidth, height: host.clientHeight })
  }).observe(host)
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', rebuild)
  return { draw, clear }
}

/** The extremes of what is shown, or `null` when that is nothing. */
export function extremesOf(points: readonly Point[]): { low: number; high: number } | null {
  if (points.length === 0) return null
  let low = Number.POSITIVE_INFINITY
  let high = Number.NEGATIVE_INFINITY
  for (const point of points) {
    low = Math.min(low, point.low)
    high = Math.max(high, point.high)
  }
  return { low, high }
}

function optionsOf(series: Series, colors: Colors, maxDistance: () => number): uPlot.Options {
  const gaps: uPlot.Series.GapsRefiner = (u, _series, from, to, nulls) => [
    ...nulls,
    ...gapsOf(u, from, to, maxDistance()),
  ]
  const edge: uPlot.Series = { width: 0, points: { show: false }, gaps }
  const axis = { stroke: colors.text, font: axisFont, ticks: { show: false }, border: { show: false } }
  const buckets = series.span.interval !== null
  return {
    width: 0,
    height: 0,
    ms: 1,
    legend: { show: false },
    // Dragging would select a span to zoom into, which the next reading would undo.
    cursor: {
      y: false,
      drag: { x: false, y: false },
      points: { size: 8, width: 2, stroke: colors.surface, fill: colors.line },
    },
    padding: [12, 14, 0, 0],
    scales: { x: { time: true, auto: false } },
    series: [
      {},
      edge,
      edge,
      { stroke: colors.line, width: 1.75, points: { size: 5, fill: colors.line, width: 0 }, gaps },
    ],
    bands: buckets ? [{ series: [2, 1], fill: colors.band }] : [],
    axes: [
      {
        ...axis,
        grid: { show: false },
        space: 64,
        size: 30,
        values: (_u, ticks, _axis, _space, step) => ticks.map((ts) => formatTick(ts, step)),
      },
      {
        ...axis,
        grid: { stroke: colors.grid, width: 1 },
        space: 40,
        gap: 8,
        values: (_u, ticks) => ticks.map(formatNumber),
        size: (u, values) => widthOf(u, values) + 16,
      },
    ],
  }
}

/** The width of the longest label, so that no number is cut and none stands far from its line. */
function widthOf(u: uPlot, labels: string[] | null): number {
  const longest = (labels ?? []).reduce((a, b) => (b.length > a.length ? b : a), '')
  u.ctx.save()
  u.ctx.font = axisFont
  const { width } = u.ctx.measureText(longest)
  u.ctx.restore()
  return Math.ceil(width)
}

function gapsOf(u: uPlot, from: number, to: number, maxDistance: Millis): [number, number][] {
  const times = u.data[0]
  const gaps: [number, number][] = []
  for (let i = from + 1; i <= to; i++) {
    const before = times[i - 1] as number
    const after = times[i] as number
    if (after - before > maxDistance) gaps.push([u.valToPos(before, 'x', true), u.valToPos(after, 'x', true)])
  }
  return gaps
}

/** The median distance of neighbours in time; of many points some tell enough. */
function usualDistance(points: readonly Point[]): Millis {
  const step = Math.max(1, Math.floor(points.length / 200))
  const distances: Millis[] = []
  for (let i = step; i < points.length; i += step) distances.push((points[i] as Point).ts - (points[i - 1] as Point).ts)
  distances.sort((a, b) => a - b)
  return distances[distances.length >> 1] ?? Number.POSITIVE_INFINITY
}

/** A dot where the line ends: now. */
function drawEnd(u: uPlot, point: Point | undefined, color: string): void {
  if (!point || point.ts > (u.scales.x?.max ?? 0)) return
  const scale = devicePixelRatio
  u.ctx.save()
  u.ctx.fillStyle = color
  u.ctx.beginPath()
  u.ctx.arc(u.valToPos(point.ts, 'x', true), u.valToPos(point.value, 'y', true), 3.5 * scale, 0, 2 * Math.PI)
  u.ctx.fill()
  u.ctx.restore()
}

function describe({ device, metric, span, points }: Series): string {
  const last = points.at(-1)
  const extremes = extremesOf(points)
  if (!last || !extremes) return `${metric} of ${device}, last ${span.label}: no points`
  const { low, high } = extremes
  const range = `from ${formatNumber(low)} to ${formatNumber(high)}`
  const latest = `${formatNumber(last.value)} at ${formatInstant(last.ts, hubNow())}`
  return `${metric} of ${device}, last ${span.label}: ${points.length} points ${range}, the latest ${latest}`
}

type Colors = ReturnType<typeof colorsOf>

/** A canvas knows no style sheet: the colours are read from where the page has them. */
function colorsOf(host: HTMLElement) {
  const style = getComputedStyle(host)
  const color = (name: string) => style.getPropertyValue(name).trim()
  return {
    line: color('--accent'),
    band: color('--band'),
    grid: color('--line'),
    text: color('--muted'),
    surface: color('--surface'),
  }
}
