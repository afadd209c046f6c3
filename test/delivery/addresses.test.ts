import { describe, expect, test } from 'vitest'
import { createAddressGuard, type Resolve } from '../../src/delivery/addresses.ts'

const refused = [
  '0.0.0.0 0.255.255.255 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.0.1 169.254.169.254',
  '172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.7',
  '203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16',
  ':: ::1 ::7f00:1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.1.2.3 0:0:0:0:0:ffff:c0a8:1 64:ff9b::127.0.0.1 64:ff9b::a00:1',
  '64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 3fff::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%lo',
  'fec0::1 ff02::1 4000::1 5f00::1 e000::1 0100:0000:0000:0000:0000:0000:0000:0001',
].flatMap((line) => line.split(' '))

const allowed = [
  '1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 169.253.0.1 172.15.0.1',
  '172.32.0.1 192.0.1.1 192.167.0.1 192.169.0.1 198.17.0.1 198.20.0.1 223.255.255.255',
  '2606:4700:4700::1111 2a00:1450:4001:81b::200e ::ffff:8.8.8.8 64:ff9b::808:808 2001:4860:4860::8888 3ffe::1',
].flatMap((line) => line.split(' '))

function resolving(...addresses: string[]): Resolve {
  const found = addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }))
  return (_hostname, _options, done) => done(null, found)
}

function lookUp(allow: string[], name: string, ...addresses: string[]): string[] | string {
  let outcome: string[] | string = 'nothing yet'
  createAddressGuard(allow, resolving(...addresses)).lookup(name, { all: true }, (error, found) => {
    outcome = error ? error.message : (found as { address: string }[]).map(({ address }) => address)
  })
  return outcome
}

describe('addresses', () => {
  const guard = createAddressGuard([])

  test.each(refused)('%s is refused, as a literal and as what a name leads to', (address) => {
    expect(guard.refusal(address)).toContain('the hub sends nothing there')
    expect(lookUp([], 'rebound.example', address)).toContain('the hub sends nothing there')
  })

  test.each(allowed)('%s is allowed', (address) => {
    expect(guard.refusal(address)).toBeNull()
    expect(lookUp([], 'receiver.example', address)).toEqual([address])
  })

  const disguises = ['2130706433', '0x7f.1', '0177.0.0.1', '127.1', '0', '[::ffff:127.0.0.1]', '[0:0::1]', '①②⑦.0.0.1']
  test.each(disguises)('http://%s/ is seen through', (host) => {
    expect(guard.refusal(new URL(`http://${host}/`).hostname)).not.toBeNull()
  })

  test('of a name that leads to both, only what is allowed is connected to', () => {
    expect(lookUp([], 'both.example', '10.0.0.1', '8.8.8.8', '::1')).toEqual(['8.8.8.8'])
  })

  test('the settings allow addresses, networks and names', () => {
    const some = createAddressGuard(['10.1.0.0/16', '192.168.1.7', 'fd00::/8', 'Intern.example'])
    for (const address of ['10.1.2.3', '192.168.1.7', 'fd12::1', '::ffff:10.1.2.3']) {
      expect(some.refusal(address), address).toBeNull()
    }
    for (const address of ['10.2.0.1', '192.168.1.8', 'fc00::1', '127.0.0.1']) {
      expect(some.refusal(address), address).not.toBeNull()
    }
    expect(lookUp(['Intern.example'], 'intern.EXAMPLE.', '127.0.0.1')).toEqual(['127.0.0.1'])
    expect(lookUp(['intern.example'], 'extern.example', '127.0.0.1')).toContain('127.0.0.1, which is loopback')
    expect(lookUp(['0.0.0.0/0'], 'any.example', '127.0.0.1')).toEqual(['127.0.0.1'])
  })

  test('what is neither address, network nor name cannot be allowed', () => {
    for (const text of [
      '10.0.0.0/33',
      '10.0.0',
      'fd00::/129',
      'a b',
      '',
      '10.0.0.0/8/8',
      'https://x.example',
      '10.0.0.0/-1',
    ]) {
      expect(() => createAddressGuard([text]), text).toThrow('is no address, network')
    }
  })

  test('a look-up that asks for one address gets one', () => {
    let outcome: unknown[] = []
    createAddressGuard([], resolving('10.0.0.1', '8.8.8.8')).lookup('x.example', {}, (...all) => {
      outcome = all
    })
    expect(outcome).toEqual([null, '8.8.8.8', 4])
  })
})
