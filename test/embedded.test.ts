import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createHub, type StoredReading } from 'telemetry-hub'
import { expect, onTestFinished, test } from 'vitest'

function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'embedded-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

test('a hub in a program takes readings in, answers for them, and has all its doors open', async () => {
  const data = temporaryFolder()
  const hub = await createHub({ data })
  const { accepted, rejected, cursor } = await hub.ingest([
    { device: 'a', ts: 1_700_000_000_000, values: { n: 1 } },
    { device: 'a', ts: 1_700_000_000, values: { n: 2 } },
    { device: 'b/c', values: { n: 3 } },
    { device: 'b', values: { n: 4, deep: { x: true } } },
  ])
  expect(accepted).toBe(2)
  expect(rejected).toEqual([
    { index: 1, reason: expect.stringMatching(/seconds/) },
    { index: 2, reason: expect.stringMatching(/device id/) },
  ])
  const response = await fetch(`http://127.0.0.1:${hub.httpPort}/v1/devices/a/telemetry`)
  expect(await response.json()).toMatchObject({ readings: [{ ts: 1_700_000_000_000, values: { n: 1 } }] })
  const read: StoredReading[] = []
  for await (const batch of hub.feed({ after: 'earliest', devices: ['b'] })) {
    read.push(...batch.readings)
    if (batch.cursor === cursor) break
  }
  expect(read.map(({ values }) => values)).toEqual([{ n: 4, 'deep.x': true }])
  await expect(hub.feed({ after: 'nonsense' }).next()).rejects.toThrow('no cursor')
  await hub.close()
  await hub.close()
  await expect(hub.ingest([{ device: 'a', values: { n: 5 } }])).rejects.toThrow('nothing was stored')

  // Another program goes on where the feed was left.
  const again = await createHub({ data })
  await again.ingest([{ device: 'b', values: { n: 6 } }])
  const { value } = await again.feed({ after: cursor }).next()
  expect(value?.readings).toMatchObject([{ device: 'b', values: { n: 6 } }])
  await again.close()
})

test('a store that dies ends the hub and not the program: the doors close, and the next call says why', async () => {
  // A program of its own, whose worker threads can be told apart: the first one is the store's.
  const program = fileURLToPath(new URL('../dying-store.js', import.meta.url))
  writeFileSync(
    program,
    `import { once } from 'node:events'
import threads from 'node:worker_threads'
import { syncBuiltinESMExports } from 'node:module'
const { Worker } = threads
const workers = []
threads.Worker = class extends Worker {
  constructor(...given) {
    super(...given)
    workers.push(this)
  }
}
syncBuiltinESMExports()
const { createHub } = await import('telemetry-hub')
const hub = await createHub({ data: 'data', logLevel: 'silent' })
const feed = hub.feed()
const reading = feed.next()
await hub.ingest([{ device: 'a', values: { n: 1 } }])
await reading
const last = feed.next()
await workers[0].terminate()
// The place, for the last time.
await last
await feed.next().catch((error) => console.log('feed', error.message))
await hub.ingest([{ device: 'a', values: { n: 2 } }]).catch((error) => console.log('ingest', error.message))
await hub.close()
console.log('going on')`,
  )
  onTestFinished(() => rmSync(program))
  const { status, stdout, stderr } = spawnSync(process.execPath, [program], {
    cwd: temporaryFolder(),
    encoding: 'utf8',
  })
  expect(stderr).toBe('')
  expect(stdout.trim().split('\n')).toEqual([
    'feed the hub has ended: the thread store-writer has ended by itself',
    'ingest the hub has ended: the thread store-writer has ended by itself',
    'going on',
  ])
  expect(status).toBe(0)
})

test('the example of the README runs', () => {
  const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8')
  const [, example] = /```js\n([\s\S]*?)```/.exec(readme) as RegExpExecArray
  // Inside the package, which then finds itself by its own name.
  const file = fileURLToPath(new URL('../readme-example.js', import.meta.url))
  writeFileSync(file, example as string)
  onTestFinished(() => rmSync(file))
  const { status, stdout, stderr } = spawnSync(process.execPath, [file], { cwd: temporaryFolder(), encoding: 'utf8' })
  expect(stderr).toBe('')
  expect(status).toBe(0)
  expect(stdout).toContain("device: 'kitchen'")
})
