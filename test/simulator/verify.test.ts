import { expect, it } from 'vitest'
import { fingerprint, flatten, parsePayload } from '../../simulator/fingerprint.ts'
import { createLedger, wasAcknowledged, wasBad, wasSent } from '../../simulator/ledger.ts'
import { verify } from '../../simulator/verify.ts'
import { freePort, run, type StandInHub, startStandInHub } from './stand-in-hub.ts'

type Stored = { ts: number; values: Record<string, unknown> }

/** Sends 60 readings of 3 devices, and falsifies the history before it is read back. */
async function auditAfter(falsify: (readings: Stored[], hub: StandInHub) => unknown, ...args: string[]) {
  await using hub = await startStandInHub()
  let falsified = false
  const history = hub.history
  hub.history = new Map()
  // The history is read only after the load has drained: the first look is the moment to tamper with it.
  Object.defineProperty(hub, 'history', {
    get() {
      if (!falsified && hub.requests.length > 0) {
        falsified = true
        falsify(history.get('sim-2')!, hub)
      }
      return history
    },
  })
  return await run(hub, ['--devices', '3', '--rate', '100', '--count', '60', '--verify', hub.http, ...args])
}

it('a true history is verified', async () => {
  const summary = await auditAfter(() => {})
  expect(summary.verification).toMatchObject({ ok: true, sent: 60, acknowledged: 60, stored: 60, examples: [] })
  expect(summary).toMatchObject({ exitCode: 0, failure: null })
})

it.each<[string, (readings: Stored[]) => unknown, object]>([
  ['missing', (readings) => readings.splice(4, 1), { missing: 1, stored: 59 }],
  ['duplicated', (readings) => readings.push({ ...readings[4]! }), { duplicated: 1, stored: 60 }],
  ['different', ([first]) => Object.assign(first!.values, { temperature: 99 }), { different: 1, stored: 60 }],
  ['different', ([first]) => Object.assign(first!.values, { occupied: 'true' }), { different: 1, stored: 60 }],
  ['different', ([first]) => Object.assign(first!.values, { more: 1 }), { different: 1, stored: 60 }],
  ['different', ([first]) => Reflect.deleteProperty(first!.values, 'co2'), { different: 1, stored: 60 }],
])('one %s reading is found and named, and the run fails', async (problem, falsify, counts) => {
  const { verification, exitCode, failure } = await auditAfter(falsify)
  expect(verification).toMatchObject({ missing: 0, duplicated: 0, different: 0, unexpected: 0, ...counts, ok: false })
  expect(verification!.examples).toEqual([{ device: 'sim-2', ts: expect.any(Number), problem }])
  expect([exitCode, failure]).toEqual([1, 'the history is not what was sent and acknowledged'])
})

it('a reading that nobody sent is reported and fails nothing', async () => {
  const { verification, exitCode } = await auditAfter((readings) =>
    readings.push({ ts: readings[4]!.ts + 1, values: {} }),
  )
  expect(verification).toMatchObject({ unexpected: 1, stored: 60, ok: true })
  expect(exitCode).toBe(0)
})

it('at QoS 0 nothing is acknowledged, so that nothing can be missing', async () => {
  const summary = await auditAfter((readings) => readings.splice(4, 1), '--qos', '0')
  expect(summary).toMatchObject({ sent: 60, acknowledged: 0, exitCode: 0 })
  expect(summary.verification).toMatchObject({ sent: 60, acknowledged: 0, stored: 59, missing: 0, ok: true })
})

it('QoS 2, batches and templates are verified alike', async () => {
  const template = '{"ts":{{ts}},"t":{{temperature}},"n":{"id":"{{device}}","seq":{{seq}}},"none":null}'
  const summary = await auditAfter(() => {}, '--qos', '2', '--batch', '4', '--payload-template', template)
  expect(summary).toMatchObject({ messages: 15, verification: { ok: true, acknowledged: 60, stored: 60 } })
})

it('the token goes along with every request', async () => {
  let sent: string[] = []
  await auditAfter((_, hub) => (sent = hub.requests), '--token', 's3cret')
  expect(new Set(sent)).toEqual(new Set(['Bearer s3cret']))
})

it('a hub that cannot be asked fails the run with what to check, and the load is summed up all the same', async () => {
  await using hub = await startStandInHub()
  const summary = await run(hub, [
    '--count',
    '5',
    '--rate',
    '50',
    '--devices',
    '1',
    '--verify',
    `http://127.0.0.1:${await freePort()}`,
  ])
  expect(summary).toMatchObject({ acknowledged: 5, verification: null, exitCode: 1 })
  expect(summary.failure).toContain('ECONNREFUSED')
})

it('an address that knows none of the devices is called the wrong one', async () => {
  await using hub = await startStandInHub()
  await using other = await startStandInHub()
  const summary = await run(hub, ['--count', '5', '--rate', '50', '--devices', '1', '--verify', other.http])
  expect(summary.failure).toContain('is it the HTTP address of the right hub?')
})

it('several values for one time are a correction: that one is stored is all that can be asked', async () => {
  await using hub = await startStandInHub()
  const ledger = createLedger()
  ledger.sent(0, 0, 1_700_000_000_000, fingerprint({ x: 1 }), false)
  ledger.sent(0, 1, 1_700_000_000_000, fingerprint({ x: 2 }), false)
  ledger.acknowledged(0, 0, 2)
  hub.history.set('d', [{ ts: 1_700_000_000_000, values: { x: 2 } }])
  const result = await verify({ hub: hub.http, token: undefined, names: ['d'], ledger })
  expect(result).toMatchObject({ ok: true, sent: 1, stored: 1, corrected: 1 })
})

it('the ledger keeps a reading that is sent twice as one, in any order', () => {
  const ledger = createLedger()
  for (const reading of [200, 3, 200]) ledger.sent(5, reading, reading * 10, reading + 0.5, false)
  ledger.sent(5, 4, 40, 1, true)
  ledger.acknowledged(5, 200, 1)
  const { flags, ts, length } = ledger.account(5)!
  expect(length).toBe(201)
  expect([flags[3], flags[4], flags[5], flags[200]]).toEqual([wasSent, wasSent | wasBad, 0, wasSent | wasAcknowledged])
  expect([ts[3], ts[200]]).toEqual([30, 2000])
  expect(ledger.account(4)).toBeUndefined()
})

it('the ledger costs at most 20 bytes a reading', () => {
  const ledger = createLedger()
  let worst = 0
  for (let reading = 0; reading < 100_000; reading++) {
    ledger.sent(0, reading, reading, 1, false)
    const { ts, fingerprints, flags } = ledger.account(0)!
    const bytes = ts.byteLength + fingerprints.byteLength + flags.byteLength
    if (reading > 1000) worst = Math.max(worst, bytes / (reading + 1))
  }
  expect(worst).toBeLessThan(20)
})

it('a fingerprint sees names, types and values, and not the order', () => {
  expect(fingerprint({ a: 1, b: 'x' })).toBe(fingerprint({ b: 'x', a: 1 }))
  expect(fingerprint({ a: 0 })).toBe(fingerprint({ a: -0 }))
  const different = [
    {},
    { a: 1 },
    { a: 2 },
    { b: 1 },
    { a: '1' },
    { a: true },
    { a: 'true' },
    { a: 1, b: 1 },
    { a: 1.0000000000000002 },
  ]
  expect(new Set(different.map((values) => fingerprint(values as never))).size).toBe(different.length)
})

it('all shapes of a payload mean the same readings as the hub promises', () => {
  const ts = 1_700_000_000_000
  expect(parsePayload(`{"ts":${ts},"values":{"a":1}}`)).toEqual({ ts, values: { a: 1 } })
  expect(parsePayload(`{"ts":${ts},"a":1}`)).toEqual({ ts, values: { a: 1 } })
  expect(parsePayload('{"a":1}')).toBeUndefined()
  expect(flatten({ a: { b: { c: 1 } }, d: [1, 2], e: null, f: 'x' })).toEqual({ 'a.b.c': 1, d: '[1,2]', f: 'x' })
})
