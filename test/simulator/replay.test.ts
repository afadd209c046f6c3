import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { run, startStandInHub } from './stand-in-hub.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sim-replay-'))
})
afterAll(() => rm(folder, { recursive: true }))

async function replay(name: string, csv: string, ...args: string[]) {
  await using hub = await startStandInHub()
  const file = join(folder, name)
  await writeFile(file, csv)
  const summary = await run(hub, ['--replay', file, '--verify', hub.http, ...args])
  return { hub, summary, sent: hub.received.map(({ topic, payload }) => [topic.split('/')[1], JSON.parse(payload)]) }
}

it('every column but the time is a metric of the device that the file is named after', async () => {
  const { sent, summary } = await replay(
    'roof.csv',
    '\ufeffdate,temperature,open,note\n2024-01-01T00:00:00,21.50,true,"a, ""b"""\n2024-01-01T01:00:00,,false,\n',
  )
  expect(sent).toEqual([
    ['roof', { ts: Date.UTC(2024, 0, 1, 0), values: { temperature: 21.5, open: true, note: 'a, "b"' } }],
    ['roof', { ts: Date.UTC(2024, 0, 1, 1), values: { open: false } }],
  ])
  expect(summary).toMatchObject({
    acknowledged: 2,
    replay: { rows: 2, skipped: 0 },
    verification: { ok: true, stored: 2 },
  })
})

it('numbers stay exactly the numbers they were, and what would not is kept as text', async () => {
  const cells = [
    '1.10',
    '1e3',
    '-0.5',
    '.5',
    '007',
    '9007199254740993',
    '0.1234567890123',
    '1_000',
    '0x10',
    'TRUE',
    'NaN',
  ]
  const { sent } = await replay('n.csv', `date,${cells.map((_, at) => `c${at}`)}\n2024-01-01,${cells}\n`)
  expect(Object.values(sent[0]![1].values)).toEqual([
    ...[1.1, 1000, -0.5, 0.5, '007', '9007199254740993', 0.1234567890123, '1_000', '0x10', 'TRUE', 'NaN'],
  ])
})

it('a column can name the devices, and a zone the clocks', async () => {
  const { sent, summary } = await replay(
    'two.csv',
    'when,who,x\n2024-07-01 12:00,a,1\n2024-07-01 12:00,b,2\n2024-07-01 13:00,a,3\n',
    ...['--time-column', 'when', '--device-column', 'who', '--time-zone', 'Europe/Berlin', '--connections', '2'],
  )
  expect(sent.filter(([device]) => device === 'a').map(([, { ts }]) => ts)).toEqual([
    Date.UTC(2024, 6, 1, 10),
    Date.UTC(2024, 6, 1, 11),
  ])
  expect(summary).toMatchObject({ devices: 2, connections: 2, verification: { ok: true, stored: 3 } })
})

it('the hour that clocks show twice makes distinct readings', async () => {
  const rows = ['01:00', '02:00', '02:00', '03:00'].map((time, at) => `2024-10-27T${time},${at}`)
  const { sent, summary } = await replay('dst.csv', `date,x\n${rows.join('\n')}\n`, '--time-zone', 'Europe/Berlin')
  expect(sent.map(([, { ts }]) => new Date(ts).getUTCHours())).toEqual([23, 0, 1, 2])
  expect(summary.verification).toMatchObject({ ok: true, stored: 4 })
})

it('bad rows are counted and named by their line, and the others are sent', async () => {
  const lines = [
    'date,who,x',
    '2024-01-01,a,1',
    'yesterday,a,2',
    '2024-01-02,a/b,3',
    '2024-01-03,a',
    '',
    '2024-01-04,a,',
    '1704067200,a,4',
  ]
  const { summary } = await replay(
    'bad.csv',
    `${lines.join('\n')}\n2024-01-05,a,"${'x'.repeat(5000)}"\n2024-01-06,a,5\n`,
    '--device-column',
    'who',
  )
  expect(summary.acknowledged).toBe(2)
  expect(summary.replay).toMatchObject({ rows: 2, skipped: 6 })
  expect(summary.replay!.firstSkipped.map(({ line, reason }) => `${line}: ${reason}`)).toEqual([
    expect.stringMatching(/^3: "yesterday" is no time/),
    expect.stringMatching(/^4: a device id must not hold/),
    '5: 2 cells under 3 columns',
    '7: all cells are empty',
    expect.stringMatching(/^8: 1704067200 looks like seconds/),
    expect.stringMatching(/^9: the text of "x" is longer than 4096 bytes/),
  ])
})

it('a quote that is never closed is reported and does not take the rows before it along', async () => {
  const { summary } = await replay('quote.csv', 'date,x\n2024-01-01,1\n2024-01-02,"2\n2024-01-03,3\n')
  expect(summary).toMatchObject({ acknowledged: 1, replay: { rows: 1, skipped: 1 } })
})

it('a long file is sent whole, in order, in batches, with the window and the read-ahead full', async () => {
  const rows = Array.from({ length: 5000 }, (_, at) => `${Date.UTC(2024, 0, 1) + at * 1000},${at}`)
  const { hub, summary } = await replay('long.csv', `date,x\n${rows.join('\n')}\n`, '--batch', '2', '--inflight', '3')
  expect(summary).toMatchObject({ acknowledged: 5000, messages: 2500, verification: { ok: true, stored: 5000 } })
  const sent = hub.received.flatMap(({ payload }) => JSON.parse(payload) as { values: { x: number } }[])
  expect(sent.map(({ values }) => values.x)).toEqual(rows.map((_, at) => at))
})

it('at a speed rows fall due as they were recorded, only faster', async () => {
  const { summary } = await replay(
    'slow.csv',
    'date,x\n2024-01-01T00:00,1\n2024-01-01T00:10,2\n2024-01-01T00:30,3\n',
    '--speed',
    '3600x',
  )
  expect(summary.acknowledged).toBe(3)
  expect(summary.seconds).toBeGreaterThanOrEqual(0.5)
})

it('a row that a template turns into something else than JSON ends a verified run with the reason', async () => {
  const template = '{"ts":{{ts}},"x":{{x}}}'
  const running = replay('text.csv', 'date,x\n2024-01-01,1\n2024-01-02,open\n', '--payload-template', template)
  await expect(running).rejects.toThrow('--payload-template made {"ts":1704153600000,"x":open}, which is not JSON')
})

it('--count ends a replay early', async () => {
  const { summary } = await replay('count.csv', 'date,x\n2024-01-01,1\n2024-01-02,2\n2024-01-03,3\n', '--count', '2')
  expect(summary).toMatchObject({ acknowledged: 2, exitCode: 0 })
})

it.each([
  ['time,x\n2024-01-01,1\n', 'has no column "date"; it has time, x'],
  ['date,x,x\n2024-01-01,1,2\n', 'two columns have this name'],
  ['', 'is empty; its first line has to name the columns'],
])('a header %j that cannot be used is an error before anything is sent', async (csv, message) => {
  await expect(replay('header.csv', csv)).rejects.toThrow(message)
})
