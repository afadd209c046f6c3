import { hubNow, type Millis } from './api.ts'
import { type Device, metricsOf, presenceOf, presenceTexts } from './fleet.ts'
import { compareNames, formatAge, formatCount, formatValue } from './format.ts'
import { create, find, mark, write } from './page.ts'

const valuesPerRow = 3

interface Row {
  device: Device
  item: HTMLLIElement
  link: HTMLAnchorElement
  dot: HTMLSpanElement
  presence: HTMLSpanElement
  seen: HTMLSpanElement
  values: HTMLSpanElement
  /** The metrics that it shows, with where their values stand. */
  cells: Map<string, HTMLSpanElement>
}

export interface DeviceList {
  replace(devices: Iterable<Device>): void
  add(devices: Device[]): void
  /** Shows what has changed in the rows that are in sight; the others are written when they come into it. */
  draw(): void
  choose(name: string | null): void
  /** Where the rows lead has changed. */
  relink(): void
  /** The first device in order. */
  readonly first: string | null
}

/** The list of devices. One stop of the Tab key: arrows move within it, typing in the search field narrows it. */
export function createDeviceList(hrefOf: (device: Device) => string): DeviceList {
  const list = find('devices', HTMLUListElement)
  const search = find('search', HTMLInputElement)
  const count = find('count', HTMLElement)
  let rows: Row[] = []
  let byName = new Map<string, Row>()
  let chosen: string | null = null
  let tabStop: Row | null = null

  const inSight = new Set<Row>()
  const rowOf = new WeakMap<Element, Row>()
  const sight = new IntersectionObserver((entries) => {
    const now = hubNow()
    for (const { target, isIntersecting } of entries) {
      const row = rowOf.get(target)
      if (!row) continue
      if (!isIntersecting) inSight.delete(row)
      else {
        inSight.add(row)
        drawRow(row, now)
      }
    }
  })

  function placeOf(name: string): number {
    let low = 0
    let high = rows.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (compareNames((rows[middle] as Row).device.name, name) < 0) low = middle + 1
      else high = middle
    }
    return low
  }

  function createRow(device: Device): Row {
    const dot = create('span', 'dot')
    const presence = create('span', 'visually-hidden')
    const seen = create('span', 'seen')
    const values = create('span', 'values')
    const name = create('span', 'name', device.name)
    const link = create('a', 'device', dot, name, presence, seen, values)
    link.href = hrefOf(device)
    link.tabIndex = -1
    link.title = device.name
    const item = create('li', '', link)
    const row = { device, item, link, dot, presence, seen, values, cells: new Map() }
    rowOf.set(item, row)
    sight.observe(item)
    return row
  }

  function drawRow(row: Row, now: Millis): void {
    const { device, cells } = row
    const presence = presenceOf(device, now)
    if (row.dot.dataset.presence !== presence) row.dot.dataset.presence = presence
    write(row.presence, presenceTexts[presence])
    write(row.seen, device.lastSeen === 0 ? '' : formatAge(device.lastSeen, now))
    if (cells.size < Math.min(valuesPerRow, device.latest.size)) createCells(row)
    for (const [metric, cell] of cells) write(cell, formatValue(device.latest.get(metric)?.value ?? ''))
  }

  function createCells({ device, cells, values }: Row): void {
    cells.clear()
    values.replaceChildren()
    for (const metric of metricsOf(device).slice(0, valuesPerRow)) {
      const cell = create('span', 'value')
      cells.set(metric, cell)
      values.append(create('span', 'pair', create('span', 'metric', metric), ' ', cell))
    }
  }

  function matches({ device }: Row): boolean {
    const name = device.name.toLowerCase()
    return search.value
      .toLowerCase()
      .split(/\s+/)
      .every((word) => name.includes(word))
  }

  function narrow(): void {
    let shown = 0
    for (const row of rows) {
      const hidden = !matches(row)
      if (row.item.hidden !== hidden) row.item.hidden = hidden
      if (!hidden) shown++
    }
    const all = formatCount(rows.length)
    write(count, shown === rows.length ? all : `${formatCount(shown)} of ${all}`)
    find('no-match', HTMLElement).hidden = shown > 0 || rows.length === 0
    if (!tabStop || tabStop.item.hidden) moveTabStop(rows.find((row) => !row.item.hidden) ?? null)
  }

  function moveTabStop(row: Row | null): void {
    if (tabStop) tabStop.link.tabIndex = -1
    tabStop = row
    if (row) row.link.tabIndex = 0
  }

  function focus(row: Row | undefined): void {
    if (!row) return
    moveTabStop(row)
    row.link.focus()
  }

  function watchKeys(event: KeyboardEvent): void {
    const steps: Record<string, number> = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: 10,
      PageUp: -10,
      Home: -rows.length,
      End: rows.length,
    }
    const step = steps[event.key]
    if (step === undefined || !tabStop) return
    event.preventDefault()
    const shown = rows.filter((row) => !row.item.hidden)
    const next = shown.indexOf(tabStop) + step
    if (next < 0 && event.key === 'ArrowUp') search.focus()
    else focus(shown[Math.max(0, Math.min(next, shown.length - 1))])
  }

  function watchSearchKeys(event: KeyboardEvent): void {
    const first = rows.find((row) => !row.item.hidden)
    if (event.key === 'Enter') first?.link.click()
    else if (event.key === 'ArrowDown') focus(first)
    else return
    event.preventDefault()
  }

  list.addEventListener('keydown', watchKeys)
  search.addEventListener('keydown', watchSearchKeys)
  search.addEventListener('input', () => {
    list.scrollTop = 0
    narrow()
  })
  document.addEventListener('keydown', (event) => {
    if (event.key !== '/' || event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey) return
    event.preventDefault()
    search.focus()
  })

  function choose(name: string | null): void {
    if (name === chosen) return
    const before = chosen === null ? undefined : byName.get(chosen)
    if (before) mark(before.link, false)
    chosen = name
    markChosen()
  }

  function markChosen(): void {
    const row = chosen === null ? undefined : byName.get(chosen)
    if (!row) return
    mark(row.link, true)
    if (!row.item.hidden && !list.contains(document.activeElement)) moveTabStop(row)
  }

  return {
    get first() {
      return rows[0]?.device.name ?? null
    },
    replace(devices) {
      sight.disconnect()
      inSight.clear()
      tabStop = null
      rows = Array.from(devices, createRow).sort((a, b) => compareNames(a.device.name, b.device.name))
      byName = new Map(rows.map((row) => [row.device.name, row]))
      list.replaceChildren(...rows.map(({ item }) => item))
      narrow()
      markChosen()
    },
    add(devices) {
      for (const device of devices) {
        const row = createRow(device)
        const place = placeOf(device.name)
        list.insertBefore(row.item, rows[place]?.item ?? null)
        rows.splice(place, 0, row)
        byName.set(device.name, row)
      }
      narrow()
      markChosen()
    },
    draw() {
      const now = hubNow()
      for (const row of inSight) drawRow(row, now)
    },
    choose,
    relink() {
      for (const { device, link } of rows) link.href = hrefOf(device)
    },
  }
}
