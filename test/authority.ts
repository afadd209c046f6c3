import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { type OnFinished, temporaryFolder } from './hub-process.ts'

export interface KeyPair {
  cert: string
  key: string
}

/** Signs certificates for one test. All that it names are paths of PEM files. */
export interface Authority {
  ca: string
  /** `names` are alternative names as OpenSSL writes them: `IP:127.0.0.1`, `DNS:pump-1`. */
  issue(commonName: string, ...names: string[]): KeyPair
}

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']

export async function createAuthority(
  commonName = 'Test authority',
  onFinished: OnFinished = onTestFinished,
): Promise<Authority> {
  const folder = await temporaryFolder(onFinished)
  const ca = join(folder, 'ca.pem')
  const caKey = join(folder, 'ca.key')
  openssl('req', '-x509', ...newKey, '-keyout', caKey, '-out', ca, '-subj', `/CN=${commonName}`, '-days', '2')
  let issued = 0
  return {
    ca,
    issue(name, ...names) {
      const base = join(folder, String(++issued))
      const pair = { cert: `${base}.pem`, key: `${base}.key` }
      const extensions = `${base}.ext`
      writeFileSync(
        extensions,
        names.length > 0 ? `subjectAltName=${names.join(',')}\n` : 'basicConstraints=CA:FALSE\n',
      )
      openssl('req', '-new', ...newKey, '-keyout', pair.key, '-out', `${base}.csr`, '-subj', `/CN=${name}`)
      const signer = ['-CA', ca, '-CAkey', caKey, '-set_serial', String(issued), '-days', '2', '-extfile', extensions]
      openssl('x509', '-req', '-in', `${base}.csr`, ...signer, '-out', pair.cert)
      return pair
    },
  }
}

function openssl(...args: string[]): void {
  const { status, stderr } = spawnSync('openssl', args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`openssl ${args[0]}: ${stderr}`)
}
