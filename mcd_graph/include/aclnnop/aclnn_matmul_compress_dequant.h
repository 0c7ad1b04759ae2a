/* out = (x1 @ unzip(x2, compressIndex, compressInfo)^T + bias) * deqScale, for libmcd_aclnn.so.
 *
 *   x1             int8     (m, k)      k a multiple of 64 above 256
 *   x2             int8     (c)         the compressed weight (n, k), n a multiple of 64 from 128 on
 *   compressIndex  int8     (8 * ceil(k / 256) * ceil(n / 128))
 *   bias           int32    (n) or (1, n); may be null
 *   deqScale       uint64   (n), (1, n) or (1, 1): the bits of an fp32, extended by zeros
 *   offsetW        null
 *   offsetX        0
 *   compressInfo   8, 8, k, n, 1
 *   out            float16  (m, n)
 *
 * With MCD_ACLNN_STRICT=1 in the environment the library answers as the public implementation does, which checks less: a
 * null bias is an error; a number of scales that is no multiple of 16, (1, 1) included, and empty inputs give zeros;
 * offsetX, offsetW and the upper halves of scales are ignored; x1, bias and out may have strides, x1 may be in fractals,
 * and k and n may be any. docs/reference/aclnn.md has the table.
 * The result is the fp32 product rounded to the nearest fp16, ties to even; how a device rounds is not public.
 */
#ifndef MCD_ACLNNOP_ACLNN_MATMUL_COMPRESS_DEQUANT_H
#define MCD_ACLNNOP_ACLNN_MATMUL_COMPRESS_DEQUANT_H

#include "aclnn/aclnn_base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Checks the arguments, and tells how much device memory the second phase needs as workspace. */
aclnnStatus aclnnMatmulCompressDequantGetWorkspaceSize(const aclTensor *x1, const aclTensor *x2,
                                                       const aclTensor *compressIndex, const aclTensor *bias,
                                                       const aclTensor *deqScale, const aclTensor *offsetW, int offsetX,
                                                       const aclIntArray *compressInfo, aclTensor *out,
                                                       uint64_t *workspaceSize, aclOpExecutor **executor);

/* Queues the work, and ends the executor unless it is repeatable. */
aclnnStatus aclnnMatmulCompressDequant(void *workspace, uint64_t workspaceSize, aclOpExecutor *executor,
                                       aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
