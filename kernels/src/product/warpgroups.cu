// Products for Hopper: which instances there are.
#include "product/warpgroups_launch.cuh"

namespace pw::dense {
namespace {

template <class T>
PwStatus launch(const PwProduct& op, const Plan& plan, PwStream stream) {
  if (plan.warpgroups == 1) {
    switch (plan.width) {
      case 32:
        return launch_warpgroups_kernel<T, Shape<1, 32>>(op, plan, stream);
      case 64:
        return launch_warpgroups_kernel<T, Shape<1, 64>>(op, plan, stream);
      case 96:
        return launch_warpgroups_kernel<T, Shape<1, 96>>(op, plan, stream);
      case 128:
        return launch_warpgroups_kernel<T, Shape<1, 128>>(op, plan, stream);
      default:
        return PW_INVALID;
    }
  }
  switch (plan.width) {
    case 64:
      return launch_warpgroups_kernel<T, Shape<2, 64>>(op, plan, stream);
    case 96:
      return launch_warpgroups_kernel<T, Shape<2, 96>>(op, plan, stream);
    case 128:
      return launch_warpgroups_kernel<T, Shape<2, 128>>(op, plan, stream);
    case 160:
      return launch_warpgroups_kernel<T, Shape<2, 160>>(op, plan, stream);
    case 192:
      return launch_warpgroups_kernel<T, Shape<2, 192>>(op, plan, stream);
    case 224:
      return launch_warpgroups_kernel<T, Shape<2, 224>>(op, plan, stream);
    case 256:
      return launch_warpgroups_kernel<T, Shape<2, 256>>(op, plan, stream);
    default:
      return PW_INVALID;
  }
}

}  // namespace

PwStatus launch_warpgroups(const PwProduct& op, const Plan& plan, PwStream stream) {
  return with_half_element(op.element, [&](auto type) -> PwStatus {
    return launch<typename decltype(type)::type>(op, plan, stream);
  });
}

PwStatus launch_warpgroups(const PwProduct& op, PwStream stream) {
  int device, num_multiprocessors;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&num_multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return error;
  return launch_warpgroups(op, plan_of(op, num_multiprocessors), stream);
}

}  // namespace pw::dense
