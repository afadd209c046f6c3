import { lookup as systemLookup } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import { StartError } from '../errors.ts'

/** Keeps webhooks out of networks that only the hub can see: whoever may make a webhook names its address. */
export interface AddressGuard {
  /** Why a host, as `URL.hostname` has it, is refused; `null` for one that is allowed, or a name to be looked up. */
  refusal(hostname: string): string | null
  /** For node:http and node:https, which connect to what this answers: there is no second look-up to be tricked. */
  lookup: LookupFunction
}

/** Looks up all addresses of a name. */
export type Resolve = (
  hostname: string,
  options: { all: true; family?: number; hints?: number },
  done: (error: NodeJS.ErrnoException | null, addresses: { address: string; family: number }[]) => void,
) => void

interface Block {
  bits: bigint
  prefix: number
  width: 32 | 128
  what: string
}

/** IPv4 addresses that are no receiver on the internet: the IANA special-purpose registry (RFC 6890), and one more. */
const refused4 = blocks([
  ['0.0.0.0/8', 'unspecified'],
  ['10.0.0.0/8', 'private'],
  ['100.64.0.0/10', 'shared by a provider (CGNAT)'],
  ['127.0.0.0/8', 'loopback'],
  ['168.63.129.16/32', "a cloud's own (Azure)"],
  ['169.254.0.0/16', 'link-local'],
  ['172.16.0.0/12', 'private'],
  ['192.0.0.0/24', 'reserved'],
  ['192.0.2.0/24', 'for documentation'],
  ['192.88.99.0/24', 'reserved (6to4 relay)'],
  ['192.168.0.0/16', 'private'],
  ['198.18.0.0/15', 'for benchmarks'],
  ['198.51.100.0/24', 'for documentation'],
  ['203.0.113.0/24', 'for documentation'],
  ['224.0.0.0/4', 'multicast'],
  ['240.0.0.0/4', 'reserved'],
])

const refused6 = blocks([
  ['::/128', 'unspecified'],
  ['::1/128', 'loopback'],
  ['::/96', 'IPv4-compatible'],
  ['64:ff9b:1::/48', 'a local translation (NAT64)'],
  ['100::/64', 'discarded'],
  ['2001::/23', 'reserved'],
  ['2001:db8::/32', 'for documentation'],
  ['2002::/16', 'tunnelled (6to4)'],
  ['3fff::/20', 'for documentation'],
  ['fc00::/7', 'private (ULA)'],
  ['fe80::/10', 'link-local'],
  ['fec0::/10', 'private (site-local)'],
  ['ff00::/8', 'multicast'],
])

/** All that is handed out to the internet; the rest of IPv6 is refused, whatever it will be one day. RFC 4291 §2.4 */
const global6 = blocks([['2000::/3', 'global']])

/** IPv6 addresses that lead to the IPv4 address in their last 32 bits, which is the one to judge. RFC 4291, RFC 6052 */
const carriers = blocks([
  ['::ffff:0:0/96', 'IPv4-mapped'],
  ['64:ff9b::/96', 'NAT64'],
])

/**
 * `allow` holds addresses (`10.1.2.3`), networks (`10.0.0.0/8`, `fd00::/8`) and host names, which are allowed wherever
 * they lead. Throws `StartError` for what is none of these.
 */
export function createAddressGuard(allow: readonly string[], resolve: Resolve = systemLookup): AddressGuard {
  const allowedNames = new Set<string>()
  const allowedBlocks: Block[] = []
  for (const text of allow) {
    const block = readBlock(text, 'allowed')
    if (block) allowedBlocks.push(block)
    else if (/^[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?$/i.test(text) && !/^[\d.]+$/.test(text)) allowedNames.add(nameOf(text))
    else
      throw new StartError(`"${text}" is no address, network (10.0.0.0/8) or host name that webhooks could be allowed`)
  }

  function judge(address: string): string | null {
    const block = readBlock(address, '')
    if (!block) return 'no address'
    const plain = carriers.some((carrier) => holds(carrier, block))
      ? { ...block, bits: block.bits & 0xffffffffn, width: 32 as const, prefix: 32 }
      : block
    // An allowed IPv6 network may be one that carries IPv4.
    if (allowedBlocks.some((allowed) => holds(allowed, plain) || holds(allowed, block))) return null
    const found = (plain.width === 32 ? refused4 : refused6).find((refused) => holds(refused, plain))
    if (found) return found.what
    return plain.width === 32 || global6.some((global) => holds(global, plain)) ? null : 'reserved'
  }

  return {
    refusal(hostname) {
      const literal = hostname.replace(/^\[(.*)\]$/, '$1')
      if (isIP(literal) === 0) return null
      const what = judge(literal)
      return what === null ? null : `${literal} is ${what}: the hub sends nothing there unless --webhook-allow names it`
    },
    lookup(hostname, options, done) {
      const settled = (error: Error | null, found: { address: string; family: number }[]): void => {
        const first = found[0]
        if (error || !first) done(error ?? new Error(`${hostname} has no address`), '', 0)
        else if (options.all) done(null, found)
        else done(null, first.address, first.family)
      }
      const query = {
        all: true as const,
        family: options.family === 'IPv4' ? 4 : options.family === 'IPv6' ? 6 : (options.family ?? 0),
        hints: options.hints ?? 0,
      }
      resolve(hostname, query, (error, addresses) => {
        if (error) return settled(error, [])
        if (allowedNames.has(nameOf(hostname))) return settled(null, addresses)
        const good = addresses.filter(({ address }) => judge(address) === null)
        const bad = addresses[0]
        if (good.length > 0 || !bad) return settled(null, good)
        const what = `${hostname} is ${bad.address}, which is ${judge(bad.address)}`
        settled(new Error(`${what}: the hub sends nothing there unless --webhook-allow names it`), [])
      })
    },
  }
}

function nameOf(hostname: string): string {
  return hostname.toLowerCase().replace(/\.$/, '')
}

function blocks(table: [text: string, what: string][]): Block[] {
  return table.map(([text, what]) => readBlock(text, what) as Block)
}

function holds(network: Block, address: Block): boolean {
  if (network.width !== address.width || address.prefix < network.prefix) return false
  const shift = BigInt(network.width - network.prefix)
  return network.bits >> shift === address.bits >> shift
}

/** An address, or a network as address and length of prefix; `null` for anything else. */
function readBlock(text: string, what: string): Block | null {
  const [address = '', length, more] = text.split('/')
  const version = isIP(address)
  if (version === 0 || more !== undefined) return null
  const width = version === 4 ? 32 : 128
  const prefix = length === undefined ? width : /^\d{1,3}$/.test(length) ? Number(length) : -1
  if (prefix < 0 || prefix > width) return null
  return { bits: version === 4 ? bits4(address) : bits6(address), prefix, width, what }
}

function bits4(address: string): bigint {
  return address.split('.').reduce((bits, part) => (bits << 8n) | BigInt(part), 0n)
}

function bits6(address: string): bigint {
  // URL spells every IPv6 address in hexadecimal groups, but knows no zones (fe80::1%eth0).
  const hostname = new URL(`http://[${address.split('%')[0]}]`).hostname.slice(1, -1)
  const [head = '', tail] = hostname.split('::')
  const groups = (part: string): string[] => (part === '' ? [] : part.split(':'))
  const missing = 8 - groups(head).length - groups(tail ?? '').length
  const all = [...groups(head), ...Array<string>(missing).fill('0'), ...groups(tail ?? '')]
  return all.reduce((bits, group) => (bits << 16n) | BigInt(`0x${group}`), 0n)
}
