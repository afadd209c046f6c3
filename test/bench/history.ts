import { type Bench, type Context, type Figure, figure, type Target } from './bench.ts'
import { fillStore, type Series } from './fill.ts'
import { createFolder, removeFolder } from './folders.ts'
import { createAgent, fetchBytes } from './http-client.ts'
import { startHub } from './hub-process.ts'
import { median } from './statistics.ts'

const reference = 'as VictoriaMetrics took on another machine of this kind: 9.8 ms for raw points, 1.5 ms for means'
const targets = {
  raw: { first: 39.2, later: 9.8, better: 'less', note: reference },
  means: { first: 4.5, later: 1.5, better: 'less', note: reference },
  latest: { first: 2, later: 0.5, better: 'less' },
} satisfies Record<string, Target>

const secondsOfDay = 86_400
/** Devices with one metric each. */
const seriesCount = 1000
const warmupRequests = 5
const requests = 20
const firstTs = Date.UTC(2026, 0, 1)

const history1 = '/v1/devices/sensor-0/telemetry?metrics=temperature&limit=86400'
const queries: { name: string; path: string; target?: Target }[] = [
  { name: '86,400 raw points, json', path: `${history1}&format=json`, target: targets.raw },
  { name: '86,400 raw points, columns', path: `${history1}&format=columns`, target: targets.raw },
  { name: '86,400 raw points, csv', path: '/v1/devices/sensor-0/telemetry?metrics=temperature&format=csv' },
  { name: '1-minute means of them, json', path: `${history1}&interval=1m&aggregate=avg`, target: targets.means },
  {
    name: '1-minute means of them, columns',
    path: `${history1}&interval=1m&aggregate=avg&format=columns`,
    target: targets.means,
  },
  { name: 'latest of 1,000 series', path: '/v1/latest?limit=1000', target: targets.latest },
]

async function run({ rounds, profiles, progress }: Context): Promise<Figure[]> {
  const data = createFolder('history')
  try {
    await fillStore(data, [sensor(0)], secondsOfDay)
    await fillStore(
      data,
      Array.from({ length: seriesCount - 1 }, (_, index) => sensor(index + 1)),
      1,
    )
    const medians = queries.map((): number[] => [])
    for (let round = 1; round <= rounds; round++) {
      const hub = await startHub({ data, profiles })
      const agent = createAgent()
      for (const [index, { name, path }] of queries.entries()) {
        const millis: number[] = []
        let bytes = 0
        for (let request = -warmupRequests; request < requests; request++) {
          const fetched = await fetchBytes(hub.httpPort, path, agent)
          if (request >= 0) millis.push(fetched.millis)
          bytes = fetched.bytes
        }
        medians[index]?.push(median(millis))
        progress(`round ${round}: ${name} ${median(millis).toFixed(2)} ms, ${(bytes / 1024).toFixed(0)} KB`)
      }
      agent.destroy()
      await hub.stop()
    }
    return queries.map(({ name, target }, index) => figure(name, 'ms', medians[index] ?? [], target))
  } finally {
    removeFolder(data)
  }
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
  description: `median of ${requests} requests over one HTTP connection that stays open`,
  targets,
  run,
}
