import { afterEach, expect, onTestFinished, test, vi } from 'vitest'
import { networkOf } from '../../broker/slots.ts'
import { type Access, createAccess } from '../../src/access/access.ts'
import { type GivenCredential, makeCredential, toKept } from '../../src/access/credential.ts'
import { createDoorman } from '../../src/access/doorman.ts'
import type { KeptCredential } from '../../src/store/store.ts'

const by = { at: 0, actor: 'test', action: 'test', subject: 'test' }

function open(kept: readonly KeptCredential[]): Access {
  const access = createAccess({
    kept,
    loopbackOnly: true,
    networkOf,
    save: async () => {},
    remove: async () => true,
    touch: async () => {},
  })
  onTestFinished(() => access.close())
  return access
}

async function make(given: Partial<GivenCredential>) {
  const { credential, secret } = await makeCredential({ kind: 'device', name: 'kitchen', ...given }, Date.now())
  return { kept: toKept(credential), secret: secret ?? '' }
}

const knock = { address: '10.0.0.1', username: '', secret: '', certified: [], gone: () => false }
const outcome = (answer: Awaited<ReturnType<Access['enter']>>) => ('refused' in answer ? answer.refused : 'in')

afterEach(() => void vi.useRealTimers())

test('guesses that come together are slowed like those that come one by one', async () => {
  const { kept } = await make({ password: 'correct horse' })
  const access = open([kept])
  const guess = async (n: number) =>
    outcome(await access.enter({ ...knock, username: 'kitchen', secret: `wrong ${n}` }))
  const answers = await Promise.all(Array.from({ length: 40 }, (_, n) => guess(n)))
  expect(answers.filter((answer) => answer === 'unknown').length).toBe(5)
  expect(answers.filter((answer) => answer === 'slowed').length).toBe(35)
  expect(access.figures).toMatchObject({ failed: 5, slowed: 35 })
})

test('who shows what is right many times at once is let in each time', async () => {
  const { kept, secret } = await make({})
  const access = open([kept])
  const answers = await Promise.all(Array.from({ length: 40 }, () => access.enter({ ...knock, secret })))
  expect(answers.map(outcome)).toEqual(Array.from({ length: 40 }, () => 'in'))
})

test('guesses at chosen passwords hold up nobody who has a secret of the hub, and are dropped when who made them has gone', async () => {
  const { kept } = await make({ password: 'correct horse' })
  const { kept: made, secret } = await make({ kind: 'token', name: 't', roles: ['admin'] })
  const names = Array.from({ length: 12 }, (_, n) => `device-${n}`)
  const access = open([made, ...names.map((name, n) => ({ ...kept, id: `device${n}`, name }))])
  let gone = false
  let answered = 0
  const guesses = names.map(async (username) => {
    const answer = await access.enter({ ...knock, username, secret: 'wrong one', gone: () => gone })
    answered++
    return outcome(answer)
  })
  expect(outcome(await access.enter({ ...knock, secret }))).toBe('in')
  expect(answered).toBeLessThan(names.length / 2)
  gone = true
  await Promise.all(guesses)
  expect(access.figures.failed).toBeLessThan(names.length / 2)
})

test('guesses of one network of IPv6 count together, whatever their addresses are', async () => {
  const { kept } = await make({})
  const access = open([kept])
  const guess = async (n: number, network = '2001:db8:1:2') => {
    const address = `${network}::${n.toString(16)}`
    return outcome(await access.enter({ ...knock, address, username: `device-${n}`, secret: 'wrong' }))
  }
  for (let n = 0; n < 50; n++) expect(await guess(n)).toBe('unknown')
  expect(await guess(50)).toBe('slowed')
  expect(await guess(50, '2001:db8:1:3')).toBe('unknown')
})

test('a certificate opens only what was made for one', async () => {
  const { kept: password } = await make({ password: 'correct horse' })
  const { kept: certificate } = await make({ certificate: true })
  const access = open([password])
  const enter = async () => outcome(await access.enter({ ...knock, certified: ['kitchen'] }))
  expect(await enter()).toBe('unknown')
  access.replace([password, certificate])
  expect(await enter()).toBe('in')
})

test('a secret is never taken for the name of a device', async () => {
  const { kept, secret } = await make({ kind: 'token', name: 't', roles: ['write'] })
  const doorman = createDoorman(open([kept]))
  const peer = { address: '10.0.0.1', names: [] }
  const deviceOf = async (username: string, clientId: string, password = '') => {
    const visitor = await doorman.admit({ peer, clientId, username, password, gone: () => false })
    return 'device' in visitor ? visitor.device : visitor.reason
  }
  expect(await deviceOf(secret, 'pump')).toBe('pump')
  expect(await deviceOf(secret, secret)).toBe('')
  expect(await deviceOf('service', 'pump', secret)).toBe('service')
})

test('a credential that has expired ends what it let in, also when the clock was set back and it was good once more', async () => {
  vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] })
  const { kept, secret } = await make({ expires: '1h' })
  const access = open([kept])
  const enter = () => access.enter({ ...knock, secret })
  const start = Date.now()
  const first = await enter()
  vi.advanceTimersByTime(3_600_000)
  expect('revocation' in first && first.revocation.revoked).toBe(true)
  expect(outcome(await enter())).toBe('unknown')
  vi.setSystemTime(start)
  const second = await enter()
  expect('revocation' in second && second.revocation.revoked).toBe(false)
  vi.advanceTimersByTime(3_600_000)
  expect('revocation' in second && second.revocation.revoked).toBe(true)
})

test('a fleet of credentials is taken up at once, and there may be only so many', async () => {
  const { kept } = await make({})
  const fleet = (count: number) => Array.from({ length: count }, (_, n) => ({ ...kept, id: `id-${n}`, name: `d-${n}` }))
  const access = open(fleet(100_000))
  expect(access.list().length).toBe(100_000)
  await expect(access.create({ kind: 'device', name: 'more' }, by)).rejects.toMatchObject({ code: 'too-many' })
})
