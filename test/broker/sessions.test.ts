import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { connect, connectAsync } from 'mqtt'
import { expect, onTestFinished, test } from 'vitest'
import { startHubProcess, waitFor } from '../hub-process.ts'

test("the sessions pass Aedes' own suite for a persistence, all of it", () => {
  const suite = fileURLToPath(new URL('./sessions.suite.js', import.meta.url))
  const { stdout } = spawnSync(process.execPath, ['--test', '--test-reporter=tap', suite], { encoding: 'utf8' })
  const passed = [...stdout.matchAll(/^ *ok \d+ - /gm)].length
  const failed = [...stdout.matchAll(/^ *not ok \d+ - (.+)$/gm)]
    .map((match) => match[1])
    .filter((name) => !name?.endsWith('.js'))
  expect(failed).toEqual([])
  expect(passed).toBeGreaterThanOrEqual(50)
})

test('what a persistent session did not acknowledge comes again with DUP, and ends with the right identifiers', async () => {
  const hub = await startHubProcess()
  const session = { clientId: 'again', clean: false, reconnectPeriod: 0 }
  const first = await connectAsync(hub.mqtt, { ...session, manualConnect: false })
  await first.subscribeAsync('x/#', { qos: 2 })
  // Takes the first message and never answers it, nor any that comes after it.
  first.handleMessage = (_packet, _done) => {}
  let arrived = 0
  first.on('packetreceive', (packet) => {
    if (packet.cmd === 'publish') arrived++
  })
  const sender = await connectAsync(hub.mqtt)
  onTestFinished(() => sender.endAsync(true).then(() => {}))
  for (let n = 0; n < 30; n++) await sender.publishAsync(`x/${n}`, String(n), { qos: n % 2 === 0 ? 1 : 2 })
  await waitFor(() => arrived > 0)
  first.stream.destroy()
  await first.endAsync(true)

  const dups: boolean[] = []
  // Listened to from the start: what waited may come together with CONNACK.
  const second = connect(hub.mqtt, session)
  onTestFinished(() => second.endAsync(true).then(() => {}))
  const texts: string[] = []
  second.on('message', (_topic, payload, { dup }) => {
    texts.push(payload.toString())
    dups.push(dup)
  })
  await waitFor(() => new Set(texts).size === 30)
  expect(dups).toContain(true)
  // Everything is acknowledged: a third connection gets nothing any more.
  await waitFor(async () => /hub_mqtt_queued 0\n/.test(await (await fetch(`${hub.http}/metrics`)).text()))
})
