import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { createSecureContext, type SecureContextOptions } from 'node:tls'
import { flagName } from './config.ts'
import { StartError } from './errors.ts'
import type { Config } from './settings.ts'

type TlsSettings = Pick<Config, 'tlsCert' | 'tlsKey' | 'tlsClientCa'>

/** What the servers speak TLS with, or `null` without a certificate. Throws `StartError` with what to do. */
export function loadTls({ tlsCert, tlsKey, tlsClientCa }: TlsSettings): SecureContextOptions | null {
  if (tlsCert === '' && tlsKey === '') {
    if (tlsClientCa !== '')
      throw new StartError('--tls-client-ca needs a certificate of the hub: give --tls-cert and --tls-key')
    return null
  }
  if (tlsCert === '' || tlsKey === '') throw new StartError('TLS needs both --tls-cert and --tls-key, or none of them')
  const cert = readPem('tlsCert', tlsCert)
  const key = readPem('tlsKey', tlsKey)
  const certificate = parse('tlsCert', tlsCert, 'a certificate', () => new X509Certificate(cert))
  const privateKey: KeyObject = parse('tlsKey', tlsKey, 'a private key without a password', () => createPrivateKey(key))
  if (!certificate.checkPrivateKey(privateKey)) {
    throw new StartError(`the key ${tlsKey} is not of the certificate ${tlsCert}: give the two that belong together`)
  }
  const tls: SecureContextOptions = { cert, key, minVersion: 'TLSv1.2' }
  if (tlsClientCa !== '') {
    const ca = readPem('tlsClientCa', tlsClientCa)
    parse('tlsClientCa', tlsClientCa, 'a certificate', () => new X509Certificate(ca))
    tls.ca = ca
  }
  // What OpenSSL still finds wrong, such as a key that is too short for it.
  parse('tlsCert', tlsCert, 'a chain of certificates that can serve', () => createSecureContext(tls))
  return tls
}

function readPem(setting: keyof TlsSettings, path: string): Buffer {
  try {
    return readFileSync(path)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') throw new StartError(`there is no file ${path}: correct ${flagName(setting)}`)
    throw new StartError(`cannot read ${path} (${message}): give the hub the right to, or correct ${flagName(setting)}`)
  }
}

function parse<T>(setting: keyof TlsSettings, path: string, expected: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new StartError(
      `${path} does not hold ${expected} in PEM (${(error as Error).message}): correct ${flagName(setting)}`,
    )
  }
}

const lookEveryMillis = 1_000

/**
 * Loads the files again when they have changed, and until the returned function is called. Certificates come by renaming
 * files, by writing into them and by turning symbolic links of folders round, so what counts is what the paths lead to.
 * A pair that is half replaced is not looked at: the files must stay as they are from one look to the next.
 */
export function watchTls(
  settings: TlsSettings,
  loaded: SecureContextOptions,
  onRenewed: (tls: SecureContextOptions) => void,
  onBroken: (error: Error) => void,
): () => void {
  const paths = [settings.tlsCert, settings.tlsKey, settings.tlsClientCa].filter((path) => path !== '')
  let current = loaded
  // Nothing was tried yet: what changed after the start had read it is found by the first look.
  let tried: string | null = null
  let last: string | null = null
  let looking = false

  async function look(): Promise<void> {
    const state = (await Promise.all(paths.map(stateOf))).join()
    const settled = state === last
    last = state
    if (!settled || state === tried) return
    tried = state
    try {
      const tls = loadTls(settings)
      if (!tls || isSame(tls, current)) return
      current = tls
      onRenewed(tls)
    } catch (error) {
      onBroken(error as Error)
    }
  }

  const timer = setInterval(() => {
    if (looking) return
    looking = true
    look().finally(() => {
      looking = false
    })
  }, lookEveryMillis)
  timer.unref()
  return () => clearInterval(timer)
}

async function stateOf(path: string): Promise<string> {
  const found = await stat(path).catch(() => null)
  return found ? `${found.ino}:${found.size}:${found.mtimeMs}` : 'missing'
}

function isSame(one: SecureContextOptions, other: SecureContextOptions): boolean {
  return (
    String(one.cert) === String(other.cert) &&
    String(one.key) === String(other.key) &&
    String(one.ca) === String(other.ca)
  )
}
