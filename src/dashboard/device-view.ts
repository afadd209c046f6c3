import { csvPath, hubNow, type Latest, type Millis, type Point, type Value } from './api.ts'
import { extremesOf } from './chart.ts'
import { type Device, metricsOf, presenceOf, presenceTexts } from './fleet.ts'
import { formatAge, formatCount, formatInstant, formatNumber, formatValue } from './format.ts'
import { create, find, mark, write } from './page.ts'
import { type Place, spans, writePlace } from './place.ts'
import type { Series } from './series.ts'

interface Tile {
  element: HTMLAnchorElement | HTMLDivElement
  numeric: boolean
  value: HTMLSpanElement
  age: HTMLSpanElement
}

export interface DeviceView {
  /** Another device, metric or span. `device` is null when the hub does not know the one that is asked for. */
  show(place: Place, device: Device | null): void
  /** Everything that goes on by itself. */
  draw(series: Series | null): void
  /** The point that is pointed at, in place of the latest one. */
  point(point: Point | null): void
}

/** The device that is looked at: its chart and its metrics. */
export function createDeviceView(): DeviceView {
  const tiles = find('metrics', HTMLDivElement)
  const readout = find('readout', HTMLElement)
  const csv = find('csv', HTMLAnchorElement)
  let place: Place | null = null
  let device: Device | null = null
  let byMetric = new Map<string, Tile>()
  let pointed: Point | null = null

  const spanLinks = spans.map((span) => {
    const link = create('a', '', span.label)
    find('spans', HTMLElement).append(link)
    return { span, link }
  })

  function show(newPlace: Place, newDevice: Device | null): void {
    if (newDevice !== device) {
      tiles.replaceChildren()
      byMetric = new Map()
    }
    place = newPlace
    device = newDevice
    pointed = null
    find('device', HTMLElement).hidden = newPlace.device === null
    find('known', HTMLElement).hidden = newDevice === null
    write(find('device-name', HTMLElement), newPlace.device ?? '')
    write(find('chart-metric', HTMLElement), newPlace.metric ?? '')
    csv.download = `${newPlace.device}.csv`
    for (const { span, link } of spanLinks) {
      link.href = writePlace({ ...newPlace, span })
      mark(link, span === newPlace.span)
    }
    for (const [metric, { element }] of byMetric) {
      if (element instanceof HTMLAnchorElement) element.href = writePlace({ ...newPlace, metric })
    }
  }

  function draw(series: Series | null): void {
    const now = hubNow()
    const presence = find('device-presence', HTMLElement)
    if (!device || !place) {
      write(presence, place?.device ? 'The hub knows no such device yet.' : '')
      delete presence.dataset.presence
      return
    }
    const state = presenceOf(device, now)
    presence.dataset.presence = state
    const seen = device.lastSeen === 0 ? 'never' : formatAge(device.lastSeen, now)
    write(presence, `${presenceTexts[state]}, last seen ${seen}`)
    csv.href = csvPath(device.name, Math.floor(now - place.span.millis))
    drawTiles(device, place, now)
    drawChartTexts(device, place, series, now)
  }

  function drawTiles(device: Device, place: Place, now: Millis): void {
    for (const [metric, latest] of device.latest) {
      const tile = tileOf(metric, latest, place)
      const text = formatValue(latest.value)
      write(tile.value, text)
      tile.value.title = typeof latest.value === 'string' ? text : ''
      write(tile.age, formatAge(latest.ts, now))
      mark(tile.element, metric === place.metric)
    }
  }

  function tileOf(metric: string, { value }: Latest, place: Place): Tile {
    const known = byMetric.get(metric)
    const numeric = typeof value === 'number'
    if (known?.numeric === numeric) return known
    const tile = createTile(metric, value)
    if (tile.element instanceof HTMLAnchorElement) tile.element.href = writePlace({ ...place, metric })
    byMetric.set(metric, tile)
    if (known) known.element.replaceWith(tile.element)
    else {
      const order = device ? metricsOf(device) : []
      const next = order.slice(order.indexOf(metric) + 1).find((other) => byMetric.has(other))
      tiles.insertBefore(tile.element, next === undefined ? null : (byMetric.get(next)?.element ?? null))
    }
    return tile
  }

  function drawChartTexts(device: Device, { metric, span }: Place, series: Series | null, now: Millis): void {
    const latest = metric === null ? undefined : device.latest.get(metric)
    write(find('chart-value', HTMLElement), latest ? formatValue(latest.value) : '')
    const points = series?.points ?? []
    write(find('chart-message', HTMLElement), chartMessage(metric, latest, series))
    find('retry-chart', HTMLElement).hidden = !series?.failure
    if (pointed) write(readout, describePoint(pointed, span.interval !== null, now))
    else write(readout, summarize(points, now))
    const buckets =
      span.interval === null ? 'every reading' : `average, least and greatest of each ${lengthOf(span.interval)}`
    const { timeZone } = Intl.DateTimeFormat().resolvedOptions()
    write(find('chart-note', HTMLElement), series ? `${buckets} · times in ${timeZone}` : '')
  }

  function chartMessage(metric: string | null, latest: Latest | undefined, series: Series | null): string {
    if (series?.failure) return `The history could not be loaded: ${series.failure.message}`
    if (metric === null) return 'This device has sent no numbers yet, so there is nothing to draw.'
    if (!series)
      return latest
        ? `“${metric}” is no number, so there is nothing to draw.`
        : 'This device has sent no such metric yet.'
    if (series.points.length > 0) return ''
    return series.loading ? 'Loading…' : `No readings in the last ${series.span.label}. Try a longer span.`
  }

  return {
    show,
    draw,
    point(point) {
      pointed = point
      if (point && place) write(readout, describePoint(point, place.span.interval !== null, hubNow()))
    },
  }
}

/** The metric that is shown when the place names none: the one before, or the first number. */
export function usualMetric(device: Device, before: string | null): string | null {
  const isNumeric = (metric: string) => typeof device.latest.get(metric)?.value === 'number'
  if (before !== null && isNumeric(before)) return before
  return metricsOf(device).find(isNumeric) ?? null
}

function createTile(metric: string, value: Value): Tile {
  const numeric = typeof value === 'number'
  const name = create('span', 'metric', metric)
  name.title = metric
  const text = create('span', 'value')
  const age = create('span', 'seen')
  const element = create(numeric ? 'a' : 'div', 'tile', name, text, age)
  return { element, numeric, value: text, age }
}

function describePoint({ ts, value, low, high }: Point, bucket: boolean, now: Millis): string {
  const range = bucket ? ` (${formatNumber(low)} to ${formatNumber(high)})` : ''
  return `${formatInstant(ts, now)} · ${formatNumber(value)}${range}`
}

function summarize(points: readonly Point[], now: Millis): string {
  const extremes = extremesOf(points)
  if (!extremes) return ''
  const ahead = points.filter(({ ts }) => ts > now + 5000).length
  const note = ahead > 0 ? ` · ${formatCount(ahead)} ahead of the hub’s clock` : ''
  return `between ${formatNumber(extremes.low)} and ${formatNumber(extremes.high)}${note}`
}

function lengthOf(interval: Millis): string {
  return interval < 60_000 ? `${interval / 1000} s` : `${interval / 60_000} min`
}
