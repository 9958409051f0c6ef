/** `@keyturn/client/aws` */
export { type AwsOptions, awsStore } from './stores/aws.ts'
export type { AwsCredentials } from './stores/aws-credentials.ts'
