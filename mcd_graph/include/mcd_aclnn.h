/* What libmcd_aclnn.so has beyond Ascend's interface: means to test a program's own error handling. */
#ifndef MCD_ACLNN_H
#define MCD_ACLNN_H

#include "acl/acl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* "aclrtMalloc:2,execution:1" makes the second call of aclrtMalloc from now on fail, and the operator's next work on a
 * stream. Replaces what was asked for before; the environment variable MCD_ACLNN_FAIL does the same at the start. */
aclError mcdAclnnFail(const char *spec);

/* Tensors, arrays, executors, streams and allocations that are not destroyed yet. */
uint64_t mcdAclnnLiveObjects(void);

#ifdef __cplusplus
}
#endif

#endif
