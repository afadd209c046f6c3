import { type Bench, type Context, type Figure, figure, ratios, type Target } from './bench.ts'
import { startHelper } from './children.ts'
import { fillStore, type Series } from './fill.ts'
import { createFolder, removeFolder } from './folders.ts'
import { createAgent, fetchBytes } from './http-client.ts'
import { startHub } from './hub-process.ts'
import type { RowServerOptions } from './row-server.ts'
import { openRows } from './rows.ts'
import { median } from './statistics.ts'

const targets = {
  raw: {
    first: 0.5,
    later: 0.13,
    better: 'less',
    note: 'four times what VictoriaMetrics took on a machine where rows took 78 ms, and as much',
  },
  means: {
    first: 0.28,
    later: 0.09,
    better: 'less',
    note: 'three times what VictoriaMetrics took on a machine where rows took 15.8 ms, and as much',
  },
  latest: { first: 0.83, later: 0.21, better: 'less', note: '2 ms and 0.5 ms on a machine where rows took 2.4 ms' },
} satisfies Record<string, Target>

const secondsOfDay = 86_400
/** Devices with one metric each. */
const seriesCount = 1000
const warmupRequests = 5
const requests = 20
const firstTs = Date.UTC(2026, 0, 1)

interface Query {
  name: string
  path: string
  /** The same of a server that keeps rows, and what the hub should take of its time. */
  rows?: { path: string; target: Target }
}

const history1 = '/v1/devices/sensor-0/telemetry?metrics=temperature&limit=86400'
const series1 = 'device=sensor-0&metric=temperature'
const queries: Query[] = [
  {
    name: '86,400 raw points, json',
    path: `${history1}&format=json`,
    rows: { path: `/raw?${series1}`, target: targets.raw },
  },
  { name: '86,400 raw points, columns', path: `${history1}&format=columns` },
  { name: '86,400 raw points, csv', path: '/v1/devices/sensor-0/telemetry?metrics=temperature&format=csv' },
  {
    name: '1-minute means of them, json',
    path: `${history1}&interval=1m&aggregate=avg`,
    rows: { path: `/means?${series1}`, target: targets.means },
  },
  { name: '1-minute means of them, columns', path: `${history1}&interval=1m&aggregate=avg&format=columns` },
  { name: 'latest of 1,000 series', path: '/v1/latest?limit=1000', rows: { path: '/latest', target: targets.latest } },
]

async function run({ rounds, profiles, progress }: Context): Promise<Figure[]> {
  const data = createFolder('history')
  const rowData = createFolder('rows')
  try {
    const [first, ...others] = Array.from({ length: seriesCount }, (_, number) => sensor(number)) as [
      Series,
      ...Series[],
    ]
    await fillStore(data, [first], secondsOfDay)
    await fillStore(data, others, 1)
    fillRows(rowData, [first], secondsOfDay)
    fillRows(rowData, others, 1)
    const ours = queries.map((): number[] => [])
    const ofRows = queries.map((): number[] => [])
    for (let round = 1; round <= rounds; round++) {
      const hub = await startHub({ data, profiles })
      const rowServer = startHelper('row-server', { folder: rowData } satisfies RowServerOptions)
      const { port } = await rowServer.receive<{ port: number }>('ready')
      for (const [index, { name, path, rows }] of queries.entries()) {
        const millis = await ask(hub.httpPort, path)
        ours[index]?.push(millis)
        const reference = rows ? await ask(port, rows.path) : Number.NaN
        if (rows) ofRows[index]?.push(reference)
        progress(`round ${round}: ${name} ${millis.toFixed(2)} ms${rows ? `, rows ${reference.toFixed(2)} ms` : ''}`)
      }
      await rowServer.stop()
      await hub.stop()
    }
    return queries.flatMap(({ name, rows }, index) => {
      const [hub = [], reference = []] = [ours[index], ofRows[index]]
      if (!rows) return [figure(name, 'ms', hub)]
      return [
        figure(name, 'ms', hub),
        figure(`${name}: rows in SQLite`, 'ms', reference),
        figure(`${name}: hub against rows`, '×', ratios(hub, reference), rows.target),
      ]
    })
  } finally {
    removeFolder(data)
    removeFolder(rowData)
  }
}

/** The median time of one request, in milliseconds. */
async function ask(port: number, path: string): Promise<number> {
  const agent = createAgent()
  const millis: number[] = []
  for (let request = -warmupRequests; request < requests; request++) {
    const fetched = await fetchBytes(port, path, agent)
    if (request >= 0) millis.push(fetched.millis)
  }
  agent.destroy()
  return median(millis)
}

function fillRows(folder: string, devices: readonly Series[], readingsPerDevice: number): void {
  const { db, insert } = openRows(folder)
  db.transaction(() => {
    for (let index = 0; index < readingsPerDevice; index++) {
      for (const { device, reading } of devices) {
        const { ts, values } = reading(index)
        insert(device, ts, values as Record<string, number>)
      }
    }
  })()
  db.close()
}

/** A temperature each second, with the noise of a real one. */
function sensor(number: number): Series {
  return {
    device: `sensor-${number}`,
    reading: (index) => {
      const temperature = 20 + 5 * Math.sin(index / 13_750) + ((index * 7919) % 13) / 50
      return { ts: firstTs + index * 1000, values: { temperature: Math.round(temperature * 100) / 100 } }
    },
  }
}

export const history: Bench = {
  name: 'history',
  description: `median of ${requests} requests over one HTTP connection that stays open, beside a server of rows`,
  targets,
  run,
}
