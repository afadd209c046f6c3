import { expect, it } from 'vitest'
import { run, startStandInHub, until } from './stand-in-hub.ts'

it('latency counts from when a reading was due, not from when a slow broker let it go', async () => {
  await using hub = await startStandInHub()
  let first: number | undefined
  hub.gate = () => {
    first ??= performance.now()
    const since = first
    return until(() => performance.now() - since >= 600)
  }
  // All 20 fall due within 200 ms; the first acknowledgement comes after 600.
  const { latencyMillis } = await run(hub, ['--devices', '1', '--rate', '100', '--count', '20', '--inflight', '1'])
  expect(latencyMillis!.p50).toBeGreaterThan(400)
  expect(latencyMillis!.max).toBeGreaterThan(590)
})

it('never more messages than the window are in flight on a connection, and the rest stays owed', async () => {
  await using hub = await startStandInHub()
  const lines: string[] = []
  hub.gate = () => until(() => lines.some((line) => line.includes('due 50 · sent 5 · acknowledged 0')))
  const summary = await run(
    hub,
    ['--devices', '2', '--connections', '1', '--rate', '200', '--inflight', '5', '--count', '50'],
    (line) => lines.push(line),
  )
  expect(summary).toMatchObject({ due: 50, sent: 50, acknowledged: 50 })
  for (const line of lines) expect(Number(/in flight (\d+)/.exec(line)![1])).toBeLessThanOrEqual(5)
})

it.each(['1', '2'])('a broker that loses all connections again and again loses no reading at QoS %s', async (qos) => {
  await using hub = await startStandInHub()
  const running = run(hub, ['--devices', '5', '--rate', '20', '--count', '300', '--qos', qos, '--verify', hub.http])
  for (const received of [20, 150]) {
    await until(() => hub.received.length >= received && hub.connections() === 5)
    hub.cut()
  }
  const summary = await running
  expect(summary).toMatchObject({ due: 300, sent: 300, acknowledged: 300, exitCode: 0 })
  expect(summary.reconnects).toBeGreaterThanOrEqual(5)
  expect(summary.verification).toMatchObject({ ok: true, stored: 300 })
  // What was due meanwhile waited for the connection, and the latency shows it.
  expect(summary.latencyMillis!.max).toBeGreaterThan(500)
})

it('many devices share few connections, each in its own order', async () => {
  await using hub = await startStandInHub()
  const summary = await run(hub, [
    '--devices',
    '30',
    '--connections',
    '4',
    '--rate',
    '20',
    '--count',
    '500',
    '--verify',
    hub.http,
  ])
  expect(summary).toMatchObject({ connections: 4, acknowledged: 500, verification: { ok: true, stored: 500 } })
  const seen = new Map<string, number>()
  for (const { topic, payload } of hub.received) {
    const { ts } = JSON.parse(payload)
    expect(ts).toBeGreaterThan(seen.get(topic) ?? 0)
    seen.set(topic, ts)
  }
  expect(new Set(hub.received.map(({ clientId }) => clientId)).size).toBe(4)
})

it('the same seed and start send the same readings in the same order for each device, another seed others', async () => {
  const play = async (seed: string) => {
    await using hub = await startStandInHub()
    await run(hub, [
      '--devices',
      '5',
      '--rate',
      '50',
      '--count',
      '100',
      '--seed',
      seed,
      '--start',
      '2026-01-01T00:00:00Z',
    ])
    return ['sim-1', 'sim-5'].map((device) =>
      hub.received.filter(({ clientId }) => clientId === device).map(({ payload }) => payload),
    )
  }
  const one = await play('1')
  expect(one[0]).toHaveLength(20)
  expect(await play('1')).toEqual(one)
  expect(await play('2')).not.toEqual(one)
})

it('devices log in with their own names', async () => {
  await using hub = await startStandInHub()
  await run(hub, ['--devices', '2', '--rate', '50', '--count', '4', '--device-prefix', 'meter-'])
  expect(new Set(hub.received.map(({ clientId, topic }) => `${clientId} ${topic}`))).toEqual(
    new Set(['meter-1 devices/meter-1/telemetry', 'meter-2 devices/meter-2/telemetry']),
  )
})
