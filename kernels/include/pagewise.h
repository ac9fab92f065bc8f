/* The whole C ABI of the kernel library. */
#ifndef PAGEWISE_H
#define PAGEWISE_H

#include "pagewise/abi.h"
#include "pagewise/attention.h"
#include "pagewise/product.h"
#include "pagewise/quantised.h"
#include "pagewise/rows.h"
#include "pagewise/sampling.h"
#include "pagewise/step.h"

#endif
