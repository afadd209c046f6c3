import { listDevices, listLatest, type Reading, readFailure } from './api.ts'
import { createChart } from './chart.ts'
import { createDeviceList } from './device-list.ts'
import { createDeviceView, usualMetric } from './device-view.ts'
import { startFeed } from './feed.ts'
import { createFleet } from './fleet.ts'
import { find, onFrame, write } from './page.ts'
import { type Place, readPlace, writePlace } from './place.ts'
import { createSeries, type Series } from './series.ts'
import { createSignIn } from './sign-in.ts'
import { createStatus } from './status.ts'

/** Who comes and goes is not in the feed. */
const presenceMillis = 5000
/** Lists and numbers keep up with the screen; a line that moves so often is no less alive. */
const chartMillis = 250

const fleet = createFleet()
const status = createStatus()
const view = createDeviceView()
const list = createDeviceList(({ name, latest }) => {
  // Who compares devices keeps looking at the same metric.
  const metric = place.metric !== null && latest.has(place.metric) ? place.metric : null
  return writePlace({ ...place, device: name, metric })
})
const chart = await createChart(find('chart', HTMLDivElement), view.point)

let place: Place = readPlace(location.hash)
let series: Series | null = null
let pulled = false
let live = false
let chartDrawn = 0
let chartLater: ReturnType<typeof setTimeout> | null = null

const draw = onFrame(() => {
  list.draw()
  status.draw(fleet)
  view.draw(series)
  drawChart()
})

function drawChart(): void {
  if (!series || chartLater !== null) return
  const early = chartDrawn + chartMillis - performance.now()
  if (early > 0) {
    chartLater = setTimeout(() => {
      chartLater = null
      drawChart()
    }, early)
    return
  }
  chartDrawn = performance.now()
  series.trim()
  chart.draw(series)
}

/** Shows the device and the metric of the URL, or the first ones there are. */
function settle(): void {
  const asked = readPlace(location.hash)
  const before = place
  // Where the URL leaves the choice to the page, it stays with it, also when a name comes that sorts before.
  const stays = before.device !== null && fleet.devices.has(before.device)
  const name = asked.device ?? (stays ? before.device : list.first)
  const device = name === null ? null : (fleet.devices.get(name) ?? null)
  const metric = asked.metric ?? (device ? usualMetric(device, before.metric) : null)
  place = { ...asked, device: name, metric }
  if (place.metric !== before.metric || place.span !== before.span) list.relink()
  // On a narrow screen there is room for the list or for a device: for the list, unless a device is asked for.
  document.body.dataset.show = asked.device === null ? 'list' : 'device'
  find('nothing', HTMLElement).hidden = !pulled || fleet.devices.size > 0
  find('something', HTMLElement).hidden = fleet.devices.size === 0
  list.choose(name)
  view.show(place, device)
  const latest = metric === null ? undefined : device?.latest.get(metric)
  follow(device && metric !== null && typeof latest?.value === 'number' ? { ...place, device: name, metric } : null)
  draw()
}

function follow(wanted: Place | null): void {
  const same =
    wanted && series?.device === wanted.device && series.metric === wanted.metric && series.span === wanted.span
  if (same) return
  series?.close()
  series = null
  chart.clear()
  chartDrawn = 0
  if (wanted?.device == null || wanted.metric === null) return
  series = createSeries(wanted.device, wanted.metric, wanted.span, draw)
  void series.pull()
}

async function pull(): Promise<void> {
  const [summaries, latest] = await Promise.all([listDevices(), listLatest()])
  fleet.replace(summaries, latest)
  pulled = true
  list.replace(fleet.devices.values())
  const before = series
  settle()
  if (series === before) await series?.pull()
}

function take(readings: Reading[]): void {
  const unknown = fleet.apply(readings)
  if (unknown.length > 0) list.add(unknown)
  series?.apply(readings)
  // What the URL asks for, or the first device and number there are, may have come only now.
  if (unknown.length > 0 || series === null) settle()
  if (unknown.length > 0) void refresh()
  draw()
}

let refreshing = false
async function refresh(): Promise<void> {
  if (!live || refreshing || document.hidden) return
  refreshing = true
  try {
    const [summaries, failure] = await Promise.all([listDevices(), readFailure()])
    fleet.updatePresence(summaries)
    status.storage(failure)
  } catch {
    // The feed notices as well that the hub is gone, and says so.
  }
  refreshing = false
  draw()
}

const signIn = createSignIn(() => feed.retry())
const feed = startFeed({
  pull,
  onReadings: take,
  onUnknown() {
    live = false
    signIn.ask()
  },
  onState(state, cause) {
    live = state === 'live'
    status.feed(state, cause)
    if (live && series?.failure) void series.pull()
    if (live) void refresh()
    draw()
  },
})

addEventListener('hashchange', settle)
document.addEventListener('visibilitychange', draw)
find('retry', HTMLButtonElement).addEventListener('click', feed.retry)
find('retry-chart', HTMLButtonElement).addEventListener('click', () => void series?.pull())
find('back', HTMLAnchorElement).addEventListener('click', () => scrollTo(0, 0))
setInterval(draw, 1000)
setInterval(refresh, presenceMillis)

const { hostname, origin } = location
const host = hostname.replace(/^\[|\]$/g, '')
write(
  find('try-mqtt', HTMLElement),
  `mosquitto_pub -h ${host} -q 1 -t devices/kitchen/telemetry -m '{"temperature":21.5}'`,
)
write(find('try-http', HTMLElement), `curl ${origin}/v1/devices/kitchen/telemetry -d '{"temperature":21.5}'`)
settle()
