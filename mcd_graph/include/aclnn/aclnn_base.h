/* A second name of aclnn/acl_meta.h, which programs written for the device include. */
#ifndef MCD_ACLNN_ACLNN_BASE_H
#define MCD_ACLNN_ACLNN_BASE_H

#include "aclnn/acl_meta.h"

#endif
