import { describe, expect, test } from 'vitest'
import { createAddressGuard } from '../../src/delivery/addresses.ts'
import { readPush, showPush } from '../../src/delivery/push-settings.ts'
import { formatDuration, parseDuration } from '../../src/units.ts'

const guard = createAddressGuard([])
const url = 'https://receiver.example/hook'
const secretOf = (bytes: number): string => `whsec_${Buffer.alloc(bytes, 7).toString('base64')}`

describe('the settings of a webhook', () => {
  test('everything but the url has a default, and a secret is made', () => {
    const { settings, madeSecret } = readPush({ url }, null, guard)
    expect(settings).toEqual({
      url,
      secrets: [madeSecret],
      batch: 100,
      batchWaitMillis: 1000,
      concurrency: 4,
      ratePerSecond: null,
      timeoutMillis: 15_000,
      disabled: null,
    })
    expect(madeSecret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/)
  })

  test('what is given is what is shown, but for the secrets', () => {
    const given = {
      url,
      secret: secretOf(24),
      batch: 1,
      batchWait: '250ms',
      concurrency: 32,
      rate: '50/s',
      timeout: '1m',
    }
    const { settings, madeSecret } = readPush(given, null, guard)
    expect(madeSecret).toBeNull()
    const { secret, ...visible } = given
    expect(showPush(settings)).toEqual({ ...visible, secrets: 1, disabled: null })
    expect(JSON.stringify(showPush(settings))).not.toContain(secret)
    for (const rate of ['1/min', '7/min', '90/min', '59999/min', '3/s']) {
      expect(showPush(readPush({ url, rate }, null, guard).settings).rate).toBe(rate)
    }
  })

  test('what a change leaves out stays, null is the default, and a disabled webhook gets another chance', () => {
    const secrets = [secretOf(32), secretOf(64)]
    const before = { ...readPush({ url, secrets, batch: 7, rate: '5/s' }, null, guard).settings, disabled: 'gone' }
    const after = readPush({ batch: null, timeout: '2s' }, before, guard)
    expect(after.madeSecret).toBeNull()
    expect(after.settings).toEqual({ ...before, batch: 100, timeoutMillis: 2000, disabled: null })
    expect(readPush({ secret: null }, before, guard).madeSecret).not.toBeNull()
  })

  const wrong: [unknown, string][] = [
    ['https://x.example', '"push" must be an object'],
    [{}, '"url" must be the address'],
    [{ url: 'receiver' }, 'that is no address'],
    [{ url: 'ftp://x.example' }, 'begins with ftp://'],
    [{ url: 'https://me:secret@x.example' }, 'user name or password'],
    [{ url: 'http://2130706433/' }, '127.0.0.1 is loopback'],
    [{ url: 'http://[fd00::1]/' }, 'fd00::1 is private'],
    [{ url: `https://x.example/${'x'.repeat(2048)}` }, 'longer than 2048'],
    [{ url, secret: secretOf(23) }, '24 to 64 bytes, this one 23'],
    [{ url, secret: secretOf(65) }, 'this one 65'],
    [{ url, secret: 'sesame' }, 'begins with "whsec_"'],
    [{ url, secret: secretOf(25).replace(/=+$/, '') }, 'base64 with its padding'],
    [{ url, secret: 5 }, 'a secret must be a text'],
    [{ url, secrets: [] }, 'list of 1 to 4'],
    [{ url, secret: secretOf(24), secrets: [secretOf(24)] }, 'not both'],
    [{ url, batch: 0 }, '"batch" must be a whole number from 1 to 1000'],
    [{ url, batch: '5' }, '"batch" must be'],
    [{ url, concurrency: 33 }, 'from 1 to 32'],
    [{ url, batchWait: 5 }, '"batchWait" must be a duration from 0s to 1m'],
    [{ url, timeout: '1h' }, '"timeout" must be a duration from 1s to 1m'],
    [{ url, rate: '0/s' }, '"rate" must be requests a second or minute'],
    [{ url, rate: '50' }, '"rate" must be'],
    [{ url, retries: 5 }, '"push" has no "retries"'],
  ]
  test.each(wrong)('%j is answered in plain words', (given, words) => {
    expect(() => readPush(given, null, guard)).toThrow(words)
  })

  test('a duration that is written is read as the same', () => {
    for (const millis of [0, 1, 999, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000, 604_800_000, 1_209_600_001]) {
      expect(parseDuration(formatDuration(millis)), String(millis)).toBe(millis)
    }
  })
})
