import { existsSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parse } from 'csv-parse/sync'
import { describe, expect, test } from 'vitest'
import {
  hubTest,
  readFigures,
  readWholeHistory,
  run,
  simulatorFile,
  startHubProcess,
  temporaryFolder,
} from './hub-process.ts'
import { createRandom } from './random.ts'

const columns = ['pressure', 'temperature', 'wind'] as const
type Row = { date: string } & Record<(typeof columns)[number], string>

// Hourly climate normals of a whole year, if they lie beside the repository; else a year made up in the same form.
const normals = new URL('../../../shared/data/seattle-weather-hourly-normals.csv', import.meta.url)

async function weatherFile(folder: string): Promise<string> {
  if (existsSync(normals)) return normals.pathname
  const random = createRandom(42)
  const lines = Array.from({ length: 8759 }, (_, i) => {
    const date = new Date(Date.UTC(2010, 0, 1, 1 + i)).toISOString().slice(0, 19)
    const temperature = 11 - 8 * Math.cos((i / 8760) * 2 * Math.PI) - 3 * Math.cos((i / 24) * 2 * Math.PI)
    return `${date},${(1013 + random.integer(-50, 50) / 10).toFixed(1)},${temperature.toFixed(1)},${(2 + random.next() * 3).toFixed(1)}`
  })
  const file = join(folder, 'weather.csv')
  await writeFile(file, `date,pressure,temperature,wind\n${lines.join('\n')}\n`)
  return file
}

describe('a year of hourly weather, replayed from a CSV file', () => {
  test('arrives complete, twice the same: as raw history, as daily means, and as CSV that equals the input', async () => {
    const folder = await temporaryFolder()
    const file = await weatherFile(folder)
    const rows = parse(readFileSync(file), { columns: true }) as Row[]
    const input = rows.map((row) => ({
      ts: Date.parse(`${row.date}Z`),
      values: Object.fromEntries(columns.map((name) => [name, Number(row[name])])),
    }))
    expect(rows.length).toBeGreaterThan(8700)

    let hub = await startHubProcess()
    const replay = () =>
      run(simulatorFile, [
        '--replay',
        file,
        '--time-column',
        'date',
        '--device',
        'seattle',
        '--broker',
        hub.mqtt,
        '--verify',
        hub.http,
        '--json',
      ])
    const first = await replay()
    expect(first.code, first.stderr).toBe(0)
    expect(JSON.parse(first.stdout)).toMatchObject({
      acknowledged: rows.length,
      verification: { stored: rows.length, missing: 0, different: 0, duplicated: 0 },
    })
    // The same file again changes nothing.
    expect((await replay()).code).toBe(0)
    const check = async () => {
      expect(await readWholeHistory(hub, 'seattle')).toEqual(input)

      const csv = await (await fetch(`${hub.http}/v1/devices/seattle/telemetry?format=csv&metrics=${columns}`)).text()
      const back = parse(csv, { columns: true }) as ({ ts: string } & Row)[]
      expect(
        back.map(({ ts, ...values }) => [
          new Date(Number(ts)).toISOString().slice(0, 19),
          ...columns.map((name) => Number(values[name])),
        ]),
      ).toEqual(rows.map((row) => [row.date, ...columns.map((name) => Number(row[name]))]))

      const { buckets } = await hub.get<{
        buckets: { ts: number; values: Record<string, { avg: number; count: number }> }[]
      }>('/v1/devices/seattle/telemetry?interval=1d&aggregate=avg,count&limit=400')
      const days = new Map<number, number[]>()
      for (const { ts, values } of input) {
        const day = ts - (ts % 86_400_000)
        days.set(day, [...(days.get(day) ?? []), values.temperature as number])
      }
      expect(buckets.map(({ ts }) => ts)).toEqual([...days.keys()])
      for (const { ts, values } of buckets) {
        const own = days.get(ts) as number[]
        expect(values.temperature?.count).toBe(own.length)
        expect(values.temperature?.avg).toBeCloseTo(own.reduce((a, b) => a + b, 0) / own.length, 9)
      }
    }
    await check()
    // And after the plug was pulled.
    await hub.kill('SIGKILL')
    hub = await startHubProcess({ folder: hub.folder })
    await check()
  })
})

describe('the simulator against the hub', () => {
  for (const scenario of [
    'steady',
    'burst',
    'reconnect-storm',
    'clock-skew',
    'late-data',
    'duplicates',
    'bad-payloads',
    'schema-drift',
  ]) {
    hubTest(
      `${scenario}: everything acknowledged is stored once, everything bad is in the quarantine`,
      async ({ hub }) => {
        const { hub_quarantine_entries: before = 0 } = await readFigures(hub)
        const { code, stdout, stderr } = await run(simulatorFile, [
          ...['--broker', hub.mqtt, '--verify', hub.http, '--json'],
          ...['--devices', '20', '--device-prefix', `${scenario}-`, '--total-rate', '400', '--count', '800'],
          ...['--scenario', scenario, '--seed', '7'],
        ])
        expect(code, stderr + stdout).toBe(0)
        const summary = JSON.parse(stdout) as {
          bad: number
          acknowledged: number
          verification: Record<string, number>
        }
        expect(summary.verification).toMatchObject({ missing: 0, different: 0, duplicated: 0, unexpected: 0 })
        expect((await readFigures(hub)).hub_quarantine_entries).toBe(before + summary.bad)
      },
    )
  }
})
